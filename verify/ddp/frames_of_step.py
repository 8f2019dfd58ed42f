"""Whether the stages that a target's own training step gives are those of the frames it was given, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fixtures.synthetic.clips import make_clip
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import on_device_of
from verify.clips.case import Training
from verify.clips.forward import place_of_forward
from verify.clips.stages import Outputs, read_stages, tensors_of
from verify.ddp.single_process import Unwrapped
from verify.ddp.step import trained_model
from verify.engine.place import Place, place_of
from verify.target.loading import load
from verify.target.naming import Target

#: A stage is another frame's where it lies closer to that frame's than this part of what lies between the two frames:
#: a step may compute in another precision, or change the images, and stays closest to its own.
SAME = 0.1


@dataclass(frozen=True)
class FramesOfStep:
    """How the stages that a training step gives compare with those of the model itself."""

    #: The number of stages that the step gives, and that the model gives for the clip.
    stages: tuple[int, int]
    #: By stage of the step, the frame whose outputs it holds, where that is another than its own.
    others: Mapping[int, int]


def why_no_step(target: Target) -> str | None:
    """Say why a target has no training step of its own, or give None where it has one."""
    return None if load(target).train_step_spec else "no training step of its own is named (--train-step)"


def place_of_step(target: Target) -> Place | None:
    """Where the target's own training step lies; its forward, where it has none."""
    step = load(target).train_step
    return place_of_forward(target) if step is None else place_of(step)


def _last_steps(returned: Any) -> list[Outputs]:
    return [tensors_of(steps[-1]) for steps in read_stages(returned).steps]


def apart(one: Outputs, other: Outputs) -> float:
    """How far two steps' outputs lie apart, as parts of the second, tensor by tensor; 0 where none can be compared."""
    square = 0.0
    for name, values in other.items():
        found = one.get(name)
        if found is None or found.shape != values.shape or not values.is_floating_point() or not values.numel():
            continue
        norm = float(values.double().norm())
        square += (float((found.double() - values.double()).norm()) / (norm or 1.0)) ** 2
    return square**0.5


def of_other_frames(got: Sequence[Outputs], own: Sequence[Outputs]) -> dict[int, int]:
    """By stage, the other frame whose outputs are there instead of its own."""
    found: dict[int, int] = {}
    for stage, frame in product(range(min(len(got), len(own))), range(len(own))):
        if frame != stage and apart(got[stage], own[frame]) < SAME * apart(own[stage], own[frame]):
            found.setdefault(stage, frame)
    return found


def frames_of_step(rank: int, world_size: int, target: Target, case: Training) -> FramesOfStep:
    """Give a clip to the target's own step, and to its model; of what cannot be read there are no stages."""
    step: Callable[..., Any] | None = load(target).train_step
    assert step is not None  # a target without is asked nothing
    with sam3_on_cpu():
        model = trained_model(target, segmentation=False)
        got, own = (
            _last_steps(call(on_device_of(model, make_clip(case.spec()))))
            for call in (lambda batch: step(Unwrapped(model), batch), model)
        )
        return FramesOfStep((len(got), len(own)), of_other_frames(got, own))
