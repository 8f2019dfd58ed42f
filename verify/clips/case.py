"""A batch of clips and the model that it is given to: a case of every group that calls the forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.clips import ClipSpec
from verify.engine.case import changed_fields, refuse_unknown_fields

#: Longest clip of a case.
MAX_FRAMES = 12
#: Fields of a case that count something, with the least that they may be.
_COUNTS = {"frames": 1, "clips": 1, "prompts": 1, "boxes": 0, "objects": 0, "seed": 0}


@dataclass(frozen=True)
class Training:
    """A batch of clips, and whether the model that trains on it has a segmentation head. It runs on one rank."""

    frames: int
    #: Clips in the batch.
    clips: int = 1
    #: Text prompts a clip.
    prompts: int = 1
    #: Whether each clip has a text more than the one after it.
    uneven: bool = False
    #: Box prompts for a frame and a text.
    boxes: int = 0
    #: Whether every other frame comes without.
    boxless: bool = False
    #: Most objects for a frame and a text.
    objects: int = 2
    #: Whether targets carry masks; the loss on masks is on where there is a segmentation head, too.
    masks: bool = False
    segmentation: bool = False
    #: Of the batch.
    seed: int = 0

    @property
    def world_size(self) -> int:
        return 1

    @property
    def mask_loss(self) -> bool:
        return self.masks and self.segmentation

    def spec(self) -> ClipSpec:
        """What the batch holds."""
        return ClipSpec(
            frames=self.frames,
            prompts=self.prompts,
            clips=self.clips,
            objects=self.objects,
            uneven=self.uneven,
            boxes=self.boxes,
            boxless=self.boxless,
            masks=self.masks,
            seed=self.seed,
        )

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the number of frames always."""
        return changed_fields(self, "frames")


def training_from_json(data: Mapping[str, Any]) -> Training:
    """Read a case as ``Training.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Training, data)
    if "frames" not in data:
        raise ValueError("a case needs 'frames'")
    for name, value in data.items():
        if name not in _COUNTS:
            if not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}: expected true or false")
        elif isinstance(value, bool) or not isinstance(value, int) or value < _COUNTS[name]:
            raise ValueError(f"{name} is {value!r}: expected a whole number of at least {_COUNTS[name]}")
    return Training(**data)


@st.composite
def trainings(
    draw: st.DrawFn,
    frames: st.SearchStrategy[int] | None = None,
    clips: st.SearchStrategy[int] | None = None,
    prompts: st.SearchStrategy[int] | None = None,
    boxes: st.SearchStrategy[int] | None = None,
    objects: st.SearchStrategy[int] | None = None,
) -> Training:
    """Draw cases of 1 to 5 frames.

    The simplest one is drawn always: with two frames, texts and a box there is another of each to confuse them with.
    """
    return Training(
        frames=draw(frames if frames is not None else st.sampled_from((2, 3, 4, 1, 5))),
        clips=draw(clips if clips is not None else st.integers(1, 2)),
        prompts=draw(prompts if prompts is not None else st.sampled_from((2, 1))),
        boxes=draw(boxes if boxes is not None else st.sampled_from((1, 2, 0))),
        objects=draw(objects if objects is not None else st.sampled_from((2, 1, 3, 0))),
        masks=draw(st.booleans()),
        segmentation=draw(st.booleans()),
        seed=draw(st.integers(0, 255)),
    )
