"""A training step run twice under the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of, moved_by_rounding
from verify.clips.case import Training
from verify.clips.run import loss_of_target, model_of
from verify.clips.stages import Outputs
from verify.target.naming import Target
from verify.tensors.describe import describe_tensor
from verify.tensors.tolerance import distance, tolerances
from verify.training.observation import oracle_gradients
from verify.training.settings import Step, training_step


@dataclass(frozen=True)
class Apart:
    """A parameter whose gradient is another the second time, by more than rounding."""

    name: str
    first: str
    second: str
    #: How far the two lie apart, and how far they may; infinity where one of them is none.
    apart: float
    allowed: float


@dataclass(frozen=True)
class Twice:
    """The outputs and the losses of two steps on models built alike, and where their gradients differ."""

    outputs: tuple[tuple[tuple[Outputs, ...], ...], tuple[tuple[Outputs, ...], ...]]
    losses: tuple[float, float]
    gradients: tuple[Apart, ...]


def _distances(first: Step, second: Step) -> dict[str, float]:
    """How far gradients lie apart, of those that are not the same bits."""
    found = {}
    for name in first.gradients.keys() | second.gradients.keys():
        one, other = first.gradients.get(name), second.gradients.get(name)
        if one is not None and other is not None:
            found[name] = distance(one, other)
        elif one is not other:
            found[name] = float("inf")
    return {name: apart for name, apart in sorted(found.items()) if apart}


def _rounding(target: Target, case: Training) -> dict[str, float]:
    """How far rounding may move each parameter's gradient: what it does to the oracle's, on another batch."""
    model, batch, loss = model_of(target, case), batch_of(case), loss_of_target(target, case)
    runs: list[dict[str, torch.Tensor]] = []
    for given in (batch, moved_by_rounding(batch)):
        _, _, gradients = oracle_gradients(model, given, loss)
        runs.append({name: value for name, value in gradients.items() if value is not None})
        progress()
    return tolerances([(runs[0], runs[1])])


def train_twice(rank: int, world_size: int, target: Target, case: Training) -> Twice:
    """Run the same training step twice; rounding is measured where a gradient is not the same bits."""
    with sam3_on_cpu():
        first, second = (training_step(target, model_of(target, case), case) for _ in range(2))
        apart = _distances(first, second)
        allowed = _rounding(target, case) if apart else {}
        gradients = tuple(
            Apart(name, _in_words(first, name), _in_words(second, name), far, allowed.get(name, 0.0))
            for name, far in apart.items()
            if far > allowed.get(name, 0.0)
        )
        return Twice((first.outputs, second.outputs), (first.loss, second.loss), gradients)


def _in_words(step: Step, name: str) -> str:
    gradient = step.gradients.get(name)
    return "none" if gradient is None else describe_tensor(gradient)
