"""A case of the group *builder*: a call of the target's builder, and what about it is looked at."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fixtures.synthetic.clips import why_no_clip
from fixtures.toy.build import accepted
from verify.engine.case import changed_fields, refuse_unknown_fields
from verify.engine.place import Place, place_of
from verify.target.loading import load
from verify.target.naming import Target

#: The arguments whose effect is looked at; ``eval_mode`` and ``checkpoint_path`` have checks of their own.
ARGUMENTS = (
    "enable_segmentation",
    "enable_inst_interactivity",
    "async_all_gather",
    "gather_backbone_out",
    "device",
    "load_from_HF",
    "bpe_path",
    "compile",
)
#: How a checkpoint may not fit.
MISFITS = ("a missing key", "a foreign prefix", "no prefix", "a tensor of another shape")


@dataclass(frozen=True)
class Build:
    """A call of the target's builder, and what about it is looked at."""

    #: The argument whose effect is looked at, or what is odd about a checkpoint.
    subject: str = ""
    segmentation: bool = True
    #: Whether there is a tracker neck, with sam3's interactive predictor.
    tracker: bool = False
    #: Whether a checkpoint's keys lie under the key ``model``.
    nested: bool = False
    #: Whether it is built for evaluation, as detection over videos is; else for training.
    evaluation: bool = False
    seed: int = 0

    @property
    def world_size(self) -> int:
        return 1

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON."""
        return changed_fields(self)


def build_from_json(data: Mapping[str, Any]) -> Build:
    """Read a case as ``Build.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Build, data)
    types = {field.name: type(field.default) for field in fields(Build)}
    for name, value in data.items():
        if type(value) is not types[name]:
            raise ValueError(f"{name} is {value!r}: expected a {types[name].__name__}")
    subject = data.get("subject", "")
    if subject and subject not in ARGUMENTS and subject not in MISFITS:
        raise ValueError(f"subject is {subject!r}; it is one of {', '.join((*ARGUMENTS, *MISFITS))}")
    return Build(**data)


def place_of_builder(target: Target) -> Place | None:
    """Where the target's builder lies."""
    return place_of(load(target).builder)


def why_no_builder(target: Target) -> str | None:
    """Say why a target has no builder to verify, or give None where it has one."""
    if load(target).own_builder:
        return why_no_clip()
    return (
        f"{target.spec} has no builder of its own (build_sam3_image_video_model, or one named with --builder): its "
        "parts were put together here"
    )


def why_no_arguments(target: Target) -> str | None:
    """Say why no argument of a target's builder can be looked at, or give None where one can."""
    if reason := why_no_builder(target):
        return reason
    return None if any(declares(target, name) for name in ARGUMENTS) else "its builder declares none of the recipe's"


def why_no_loading(target: Target) -> str | None:
    """Say why a target's builder cannot be asked to load a checkpoint, or give None where it can."""
    if reason := why_no_builder(target):
        return reason
    return None if declares(target, "checkpoint_path") else "its builder has no argument checkpoint_path"


def why_no_modes(target: Target) -> str | None:
    """Say why a target's builder cannot be asked for a mode, or give None where it can."""
    if reason := why_no_builder(target):
        return reason
    return None if accepted(load(target).builder, {"eval_mode": True}) else "its builder has no argument eval_mode"


#: What an argument is called that says what is trained and what is frozen.
_FREEZES = re.compile(r"freez|frozen|lora|adapter|trainable|train_only|only_train")


def freezes(target: Target) -> str | None:
    """The argument by which a target's builder freezes parameters unless it is told otherwise; None without one."""
    for name, parameter in inspect.signature(load(target).builder).parameters.items():
        if _FREEZES.search(name.lower()) and parameter.default is not parameter.empty and parameter.default:
            return f"{name}={parameter.default!r}"
    return None


def declares(target: Target, argument: str) -> bool:
    """Whether the target's builder has an argument of this name."""
    return argument in inspect.signature(load(target).builder).parameters
