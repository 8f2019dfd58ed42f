"""A case of the group *trainer*: videos, and how long to train on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fixtures.trainer import Schedule
from verify.clips.forward import why_no_clip_forward
from verify.configuration.reading import why_no_data_path
from verify.engine.case import changed_fields, refuse_unknown_fields
from verify.target.loading import load
from verify.target.naming import Target


@dataclass(frozen=True)
class Run:
    """Videos and how long to train on them; each clip is a whole video, or every second frame of it."""

    world_size: int = 2
    videos: int = 4
    #: Frames of a clip.
    frames: int = 4
    #: Whether the frames between those of a clip are held out.
    hold_out: bool = False
    epochs: int = 2
    #: Clips in a step, over all ranks.
    batch: int = 2
    objects: int = 2
    #: Whether the learning rate falls from step to step.
    decays: bool = False
    #: Whether training is in the precision that the configuration sets for AMP, or in full precision.
    amp: bool = False
    seed: int = 0

    def schedule(self, ranks: int) -> Schedule:
        return Schedule(self.epochs, self.frames, max(1, self.batch // ranks), self.decays, self.seed, self.amp)

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the world size always."""
        return changed_fields(self, "world_size")


def run_from_json(data: Mapping[str, Any]) -> Run:
    """Read a case as ``Run.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Run, data)
    plain = asdict(Run())
    for name, value in data.items():
        if type(value) is not type(plain[name]) or (not isinstance(value, bool) and value < (name != "seed")):
            raise ValueError(
                f"{name} is {value!r}: expected {'true or false' if isinstance(plain[name], bool) else 'a number'}"
            )
    return Run(**data)


def why_no_trainer(target: Target) -> str | None:
    """Say why a target cannot be trained with sam3's Trainer, or give None where it can."""
    if reason := why_no_data_path(target):
        return reason
    return why_no_clip_forward(target) if load(target).config is None else None
