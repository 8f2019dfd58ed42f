"""What a forward returns, read as a list of stages, each a list of its steps' outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

#: Outputs that are not results but what later steps of tracking start from.
NOT_COMPARED = frozenset({"prev_encoder_out"})

#: A step's tensors by name, such as ``aux_outputs[0].pred_boxes``.
Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Stages:
    """What a forward returned, read as a list of stages, each a list of its steps' outputs."""

    steps: tuple[tuple[Mapping[str, Any], ...], ...]
    #: Why sam3's loss and trainer cannot take it, or None.
    misfit: str | None


def read_stages(returned: Any) -> Stages:
    """Read what a forward returned, as leniently as makes sense."""
    from sam3.model.model_misc import SAM3Output

    misfit = None
    listed = getattr(returned, "output", returned)
    if not isinstance(returned, SAM3Output):
        misfit = f"the forward returns a {type(returned).__name__}, where sam3's loss and trainer take a SAM3Output"
    if not isinstance(listed, (list, tuple)):
        return Stages((), misfit)
    stages = tuple(tuple(stage) if isinstance(stage, (list, tuple)) else (stage,) for stage in listed)
    for number, steps in enumerate(stages):
        if not steps:
            misfit = misfit or f"stage {number} holds no step's outputs"
        elif not all(isinstance(step, Mapping) for step in steps):
            misfit = misfit or f"stage {number} holds a {type(steps[0]).__name__}, where outputs are a dictionary"
            return Stages((), misfit)
    if misfit is None:
        with SAM3Output.iteration_mode(returned, iter_mode=returned.iter_mode) as same:
            odd = next((item for item in same if not isinstance(item, Mapping)), None)
        if odd is not None:
            misfit = (
                f"iterating over what the forward returns gives a {type(odd).__name__} a stage, where the trainer "
                "takes the outputs of its last step (IterMode.LAST_STEP_PER_STAGE)"
            )
    return Stages(stages, misfit)


def _collect(value: Any, name: str, found: Outputs) -> None:
    if isinstance(value, torch.Tensor):
        found[name] = value.detach().clone()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), found)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _collect(item, f"{name}[{number}]", found)


def tensors_of(step: Mapping[str, Any]) -> Outputs:
    """Copy a step's tensors, without gradient, by name; but for those that are not compared."""
    found: Outputs = {}
    _collect({key: value for key, value in step.items() if key not in NOT_COMPARED}, "", found)
    return found


def all_tensors(stages: Stages) -> tuple[tuple[Outputs, ...], ...]:
    return tuple(tuple(tensors_of(step) for step in steps) for steps in stages.steps)


def pairs(
    right: tuple[tuple[Outputs, ...], ...], moved: tuple[tuple[Outputs, ...], ...]
) -> Iterator[tuple[Outputs, Outputs]]:
    for steps, others in zip(right, moved, strict=True):
        yield from zip(steps, others, strict=True)
