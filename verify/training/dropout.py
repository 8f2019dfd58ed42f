"""Training steps and evaluation on a model that keeps dropout and drop path, each beside another run of the target.

A loop that comes to its frames in another order draws other random numbers and is as right as any, so there is no
oracle of this: a target is compared with itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import call, model_of
from verify.clips.stages import Outputs, all_tensors, read_stages
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.tolerance import rounding
from verify.training.settings import Step, other_gradients, training_step, turned_steps


@dataclass(frozen=True)
class Compared:
    """A step beside one that should be equal to it."""

    expected_loss: float
    loss: float
    #: Parameters whose gradient is another, with what was expected and what came, in words.
    gradients: tuple[tuple[str, str, str], ...]

    @property
    def loss_differs(self) -> bool:
        return abs(self.loss - self.expected_loss) > rounding(abs(self.expected_loss))


@dataclass(frozen=True)
class WithDropout:
    """Steps of a model with dropout that should be equal, and two evaluations."""

    again: Compared
    #: With the generator of random numbers set anew between the forward and the backward pass.
    reseeded: Compared
    #: By which switches of activation checkpointing were turned, and how; where the step failed, why.
    turned: Mapping[str, Compared | Violation]
    evaluated: tuple[tuple[Outputs, ...], ...]
    evaluated_again: tuple[tuple[Outputs, ...], ...]


def _compared(expected: Step, got: Step) -> Compared:
    return Compared(expected.loss, got.loss, other_gradients(expected, got))


def train_with_dropout(rank: int, world_size: int, target: Target, case: Training) -> WithDropout:
    """Take a step several times under one seed, and evaluate twice under two."""
    with sam3_on_cpu():
        first = training_step(target, model_of(target, case, dropout=True), case)
        turned = {
            what: step if isinstance(step, Violation) else _compared(first, step)
            for what, step in turned_steps(target, case, dropout=True)
        }
        again = _compared(first, training_step(target, model_of(target, case, dropout=True), case))
        model = model_of(target, case, dropout=True)
        reseeded = _compared(first, training_step(target, model, case, backward_seed=case.seed + 1))
        model = model_of(target, case, dropout=True).eval()
        evaluated = []
        for seed in (case.seed, case.seed + 1):
            torch.manual_seed(seed)
            with torch.no_grad():
                evaluated.append(all_tensors(read_stages(call(model, batch_of(case)))))
            progress()
        return WithDropout(again, reseeded, turned, evaluated[0], evaluated[1])
