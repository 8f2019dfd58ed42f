"""A case of the group *ddp*: a training run of some iterations, in which every rank has clips of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.clips import ClipSpec
from verify.engine.case import changed_fields, refuse_unknown_fields

#: What a configuration may pair: whether there is a segmentation head, and whether masks enter the loss.
PAIRINGS: Mapping[str, tuple[bool, bool]] = {
    "boxes": (False, False),
    "masks": (True, True),
    "boxes beside masks": (True, False),
}
WORDS = {
    "boxes": "no segmentation head, loss on boxes",
    "masks": "segmentation head, loss on boxes and masks",
    "boxes beside masks": "segmentation head, loss on boxes alone",
}
MAX_FRAMES = 8


@dataclass(frozen=True)
class DataParallel:
    """A training run of some iterations; rank r's clip in iteration i is a new one, of length ``frames[r + i]``.

    Where a rank's number is beyond the end of a tuple, counting starts again.
    """

    world_size: int
    pairing: str = "boxes"
    frames: tuple[int, ...] = (2,)
    #: Objects in every frame, by rank.
    objects: tuple[int, ...] = (2,)
    #: Box prompts a frame, by rank.
    boxes: tuple[int, ...] = (0,)
    #: Text prompts a clip.
    prompts: int = 1
    iterations: int = 3
    #: Whether forward and loss are under autocast, in the precision that the target is trained in.
    autocast: bool = False
    seed: int = 0

    @property
    def segmentation(self) -> bool:
        return PAIRINGS[self.pairing][0]

    @property
    def masks(self) -> bool:
        """Whether targets carry masks and the loss is on them, too."""
        return PAIRINGS[self.pairing][1]

    def clip(self, rank: int, iteration: int = 0) -> ClipSpec:
        objects = self.objects[rank % len(self.objects)]
        return ClipSpec(
            frames=self.frames[(rank + iteration) % len(self.frames)],
            prompts=self.prompts,
            objects=objects,
            # As many in each frame on each rank: a loss that is normalised by the number of objects on all ranks is
            # then what it is on one, and can be compared with it.
            fewest=objects,
            boxes=self.boxes[rank % len(self.boxes)],
            masks=self.masks,
            seed=(self.seed * 64 + rank) * 64 + iteration,
        )

    def clips(self, iteration: int = 0) -> tuple[ClipSpec, ...]:
        """The clip of every rank."""
        return tuple(self.clip(rank, iteration) for rank in range(self.world_size))

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the world size always."""
        return changed_fields(self, "world_size")


def data_parallel_from_json(data: Mapping[str, Any]) -> DataParallel:
    """Read a case as ``DataParallel.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(DataParallel, data)
    try:
        values: dict[str, Any] = dict(data)
        values |= {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        case = DataParallel(**values)
        if case.pairing not in PAIRINGS:
            raise ValueError(f"pairing is {case.pairing!r}; it is one of {', '.join(PAIRINGS)}")
        if not 1 <= min(case.frames) <= max(case.frames) <= MAX_FRAMES:
            raise ValueError(f"frames are {case.frames}; a clip has 1 to {MAX_FRAMES}")
        if min(case.prompts, case.iterations) < 1 or min(*case.objects, *case.boxes, 0) < 0:
            raise ValueError("there is at least one prompt and iteration, and no negative number of anything")
    except TypeError as error:
        raise ValueError(str(error)) from None
    return case


@st.composite
def data_parallel(draw: st.DrawFn, world_sizes: st.SearchStrategy[int], **fixed: Any) -> DataParallel:
    """Draw runs whose clips all have the same length."""
    values: dict[str, Any] = {
        "world_size": draw(world_sizes),
        # The first of each is what the first run has, of which there is one for each world size in profile quick.
        "frames": (draw(st.sampled_from((2, 3))),),
        "boxes": (draw(st.sampled_from((1, 0))),),
        "prompts": draw(st.sampled_from((2, 1))),
        "seed": draw(st.integers(0, 255)),
    }
    return DataParallel(**{**values, **fixed})


@st.composite
def uneven(draw: st.DrawFn, world_sizes: st.SearchStrategy[int], **fixed: Any) -> DataParallel:
    """Draw runs whose clips differ in length between ranks, and on a rank from iteration to iteration."""
    lengths = draw(st.permutations(range(1, 4)).map(lambda order: tuple(order[:2])))
    return draw(data_parallel(world_sizes, frames=lengths, **fixed))
