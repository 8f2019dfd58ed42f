"""A training step under autocast, beside the oracle's and beside the same step in full precision.

Each step has an autocast context of its own: autocast keeps the weights that it has cast until the outermost context
ends, so that what the loop leaves there would otherwise be the oracle's.

What rounding comes to is measured on the oracle, under the same autocast: it is run on the same batch with each pixel
moved by one step of autocast's precision. In half precision that may turn a match round, and with it move the loss by
a tenth; where the loop's loss lies further off than a few such runs, there are therefore more of them before it counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import backward, clip_loss, loss_of_target, model_of
from verify.clips.step import StepFailed, step_failed
from verify.configuration.precision import trained_in
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.precision import computing_in
from verify.tensors.tolerance import distance, perturbed

#: How many times as far off as the furthest of the perturbed runs a loss may lie, and a gradient be nothing but zeros.
MARGIN = 4.0
#: Perturbed runs: as a rule, and where the loss lies further off than those explain.
RUNS = 3
MOST_RUNS = 12

#: How far the norm of a part's gradient may lie from the oracle's: in parts of it in any case, and in times of the
#: furthest of all perturbed runs. And which parts are too small to be looked at, in parts of the whole gradient.
NORM, NORM_MARGIN, SMALL = 0.25, 2.0, 0.05

#: A gradient by parameter; None where the backward pass did not reach it.
Gradients = Mapping[str, torch.Tensor | None]


@dataclass(frozen=True)
class Parameters:
    """Parameters by what became of their gradients under autocast."""

    not_finite: tuple[str, ...]
    #: With a gradient in full precision, and none under autocast; and the other way round.
    lost: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True)
class OtherNorm:
    """A part of the model whose gradient under autocast is larger or smaller than the oracle's."""

    part: str
    got: float
    expected: float
    tolerance: float


@dataclass(frozen=True)
class UnderAutocast:
    """A training step under autocast."""

    precision: torch.dtype
    #: Where and why the step fails, or the oracle's does; there is nothing else then.
    failed: StepFailed | None = None
    oracle_failed: StepFailed | None = None
    parameters: Parameters | None = None
    norms: tuple[OtherNorm, ...] = ()
    loss: float = 0.0
    expected_loss: float = 0.0
    #: The oracle's losses with pixels moved by one step of the precision.
    moved_losses: tuple[float, ...] = ()

    @property
    def loss_tolerance(self) -> float:
        return _loss_tolerance(self.expected_loss, self.moved_losses, self.precision)


def _loss_tolerance(right: float, moved: tuple[float, ...], precision: torch.dtype) -> float:
    least = torch.finfo(precision).eps * abs(right)  # by chance a few runs may hardly move at all
    return max(least, *(MARGIN * abs(loss - right) for loss in moved))


def _step(model: nn.Module, batch: Any, loss: Any, case: Training, precision: torch.dtype, oracle: bool) -> float:
    """One step as sam3's trainer takes it: forward and loss under autocast, the backward pass outside."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(case.seed)
    with computing_in(precision):
        value = clip_loss(loss, model, batch, one_by_one=oracle)
    backward(value, batch)
    return float(value.detach())


def _gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    """What is left of a backward pass, zeros included: in half precision a gradient may well round to them."""
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def _compared(got: Gradients, plain: Gradients, right: Gradients, moved: Gradients) -> Parameters:
    def is_lost(name: str) -> bool:
        found, full, expected, other = got[name], plain[name], right[name], moved[name]
        if full is None or not full.any():
            return False
        if found is None:
            return True
        if found.any() or expected is None or other is None:
            return False
        # Nothing but zeros. So is, by right, what is nothing but rounding in the oracle.
        return float(expected.abs().max()) > MARGIN * distance(expected, other)

    def is_extra(name: str) -> bool:
        found = got[name]
        return found is not None and bool(found.any()) and plain[name] is None and right[name] is None

    return Parameters(
        tuple(name for name, found in got.items() if found is not None and not bool(found.isfinite().all())),
        tuple(filter(is_lost, got)),
        tuple(filter(is_extra, got)),
    )


def _norms(gradients: Gradients) -> dict[str, float]:
    """The norm of the gradient of each part of the model, the image encoder apart from the texts'."""
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        if gradient is not None:
            first, *others = name.split(".")
            part = f"{first}.{others[0]}" if first == "backbone" and others else first
            squares[part] = squares.get(part, 0.0) + float(gradient.double().pow(2).sum())
    return {part: square**0.5 for part, square in squares.items()}


def _other_norms(
    found: Mapping[str, float], expected: Mapping[str, float], moved: Sequence[Mapping[str, float]]
) -> tuple[OtherNorm, ...]:
    """The parts whose norm is another than the oracle's, by more than those of its perturbed runs explain."""
    whole = sum(norm**2 for norm in expected.values()) ** 0.5
    others = []
    for part, norm in expected.items():
        apart = max(abs(run.get(part, 0.0) - norm) for run in moved)
        tolerance = max(NORM * norm, NORM_MARGIN * apart)
        if norm > SMALL * whole and math.isfinite(norm + apart) and not abs(found.get(part, 0.0) - norm) <= tolerance:
            others.append(OtherNorm(part, found.get(part, 0.0), norm, tolerance))
    return tuple(others)


def train_under_autocast(rank: int, world_size: int, target: Target, case: Training) -> UnderAutocast:
    """Run a training step under the autocast that the target is trained under, without it, and the oracle's under it.

    Raises:
        Violation: when the step fails without autocast.
    """
    precision = trained_in(target)
    with sam3_on_cpu():
        model, loss = model_of(target, case), loss_of_target(target, case)
        _step(model, batch_of(case), loss, case, torch.float32, oracle=False)
        plain = _gradients(model)
        model = model_of(target, case)
        try:
            value = _step(model, batch_of(case), loss, case, precision, oracle=False)
        except Violation as violation:
            return UnderAutocast(precision, failed=step_failed(violation))
        got = _gradients(model)
        model, clean = model_of(target, case), batch_of(case)

        def oracle(seed: int) -> float:
            images = perturbed(clean.img_batch, seed, precision) if seed else clean.img_batch
            return _step(model, replace(clean, img_batch=images), loss, case, precision, oracle=True)

        try:
            expected = oracle(0)
            right = _gradients(model)
            moved_losses: tuple[float, ...] = (oracle(1),)
            moved = _gradients(model)
            norms, right_norms, moved_norms = _norms(got), _norms(right), [_norms(moved)]
            for runs in (RUNS, MOST_RUNS):
                far = abs(value - expected) > _loss_tolerance(expected, moved_losses, precision)
                if runs == RUNS or far or _other_norms(norms, right_norms, moved_norms):
                    for seed in range(len(moved_losses) + 1, runs + 1):
                        moved_losses += (oracle(seed),)
                        moved_norms.append(_norms(_gradients(model)))
        except Violation as violation:
            return UnderAutocast(precision, oracle_failed=step_failed(violation))
        return UnderAutocast(
            precision,
            parameters=_compared(got, plain, right, moved),
            norms=_other_norms(norms, right_norms, moved_norms),
            loss=value,
            expected_loss=expected,
            moved_losses=moved_losses,
        )
