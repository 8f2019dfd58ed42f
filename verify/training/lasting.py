"""What a forward changes for good: of the model, of torch, and of what the model computes after further steps.

The oracle runs sam3's one-frame forward on the very modules of the target, so what a forward has changed of them the
oracle has as well. Here a model is compared with what it was, and with a fresh copy of itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fixtures.ranks import progress
from fixtures.torch_state import differences, restore, torch_state
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import call, model_of
from verify.clips.stages import Outputs, all_tensors, read_stages
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.training.settings import Step, other_gradients, training_step

#: Standard deviation of what stands for an optimizer's step: outputs move by far more than rounding.
STEP = 0.01


@dataclass(frozen=True)
class Left:
    """What is another after a forward than before it."""

    #: The parameters whose ``requires_grad`` is another, with what it is now.
    trained: Mapping[str, bool]
    #: The modules that are in another mode, with whether they are in training now; the model itself has no name.
    modes: Mapping[str, bool]
    #: What of torch's state, in words.
    torch: tuple[str, ...]
    #: The random numbers that come next, after a forward and after one where a number had been drawn before.
    next_numbers: tuple[tuple[float, ...], tuple[float, ...]]


def _changed(before: Mapping[str, bool], after: Mapping[str, bool]) -> dict[str, bool]:
    return {name: now for name, now in after.items() if before.get(name, now) != now}


def _trained(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def _modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def _numbers_after_a_forward(model: nn.Module, case: Training, drawn_before: int) -> tuple[float, ...]:
    batch = batch_of(case)
    torch.manual_seed(case.seed)
    torch.rand(drawn_before)
    call(model, batch)
    return tuple(torch.rand(4).tolist())


def _left(model: nn.Module, case: Training) -> Left:
    trained, modes, state = _trained(model), _modes(model), torch_state()
    try:
        first = _numbers_after_a_forward(model, case, 0)
        told = differences(state, torch_state())
        changed = _changed(trained, _trained(model)), _changed(modes, _modes(model))
        second = _numbers_after_a_forward(model, case, 1)
    finally:
        restore(state)
    return Left(*changed, told, (first, second))


def leave_model(rank: int, world_size: int, target: Target, case: Training) -> dict[str, Left | str]:
    """Run the forward in training, and in evaluation without gradient as the trainer does; by mode, what it leaves.

    Where it fails, why.
    """
    found: dict[str, Left | str] = {}
    with sam3_on_cpu():
        for mode in ("training", "evaluation"):
            model = model_of(target, case).train(mode == "training")
            try:
                with torch.set_grad_enabled(mode == "training"):
                    found[mode] = _left(model, case)
            except Violation as violation:
                found[mode] = violation.message
    return found


@dataclass(frozen=True)
class BetweenSteps:
    """A model that was trained and evaluated in turn, beside fresh copies of it under the same weights."""

    evaluated: tuple[tuple[Outputs, ...], ...]
    evaluated_afresh: tuple[tuple[Outputs, ...], ...]
    trained: tuple[tuple[Outputs, ...], ...]
    trained_afresh: tuple[tuple[Outputs, ...], ...]
    #: Parameters whose gradient is another, with what was expected and what came, in words.
    gradients: tuple[tuple[str, str, str], ...]


@contextmanager
def _when(situation: str) -> Iterator[None]:
    """Say of what goes wrong in which situation it did."""
    try:
        yield
    except Violation as violation:
        raise Violation(
            f"{situation}: {violation.message}",
            frame=violation.frame,
            expected=violation.expected,
            got=violation.got,
            details=violation.details,
            place=violation.place,
        ) from violation.__cause__


@contextmanager
def _told_by_others(situation: str) -> Iterator[None]:
    """Pass over what goes wrong where no step and no evaluation came before: other checks tell it."""
    try:
        yield
    except Violation as violation:
        raise NotCovered(f"{situation} nothing can be told of later ones: {violation.message}") from None


def _step(target: Target, model: nn.Module, case: Training) -> Step:
    model.train()
    model.zero_grad(set_to_none=True)
    return training_step(target, model, case)


@torch.no_grad()
def _evaluate(model: nn.Module, case: Training) -> tuple[tuple[Outputs, ...], ...]:
    model.eval()
    return all_tensors(read_stages(call(model, batch_of(case))))


@torch.no_grad()
def _move(model: nn.Module, names: Collection[str], seed: int) -> None:
    """Move weights in place, as an optimizer's step does; what is frozen stays, and may be kept by value."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.add_((torch.randn(parameter.shape, generator=generator) * STEP).to(parameter))
    progress()


@torch.no_grad()
def _fresh_copy(target: Target, case: Training, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Give a model that has run nothing, under other weights; what is no weight stays as it was built."""
    model = model_of(target, case)
    for name, value in model.state_dict().items():
        if name in weights and isinstance(value, torch.Tensor):
            value.copy_(weights[name])
    return model


def evaluate_between_steps(rank: int, world_size: int, target: Target, case: Training) -> BetweenSteps:
    """Train and evaluate a model twice in turn, with other weights after each step; then train once more.

    Raises:
        NotCovered: where the first step or evaluation fails, or those of a fresh copy.
        Violation: where a later one fails.
    """
    with sam3_on_cpu():
        model = model_of(target, case)
        trained = {name for name, is_trained in _trained(model).items() if is_trained}
        with _told_by_others("as the first training step or evaluation fails,"):
            _step(target, model, case)
            _move(model, trained, case.seed)
            _evaluate(model, case)
        # The mode is set in between, as a trainer sets it: there a model may let go of what it has kept.
        with _when("trained on after an evaluation"):
            _step(target, model, case)
        _move(model, trained, case.seed + 1)
        weights = {
            name: value.detach().clone()
            for name, value in model.state_dict().items()
            if isinstance(value, torch.Tensor)
        }
        with _told_by_others("as a step or an evaluation of a fresh copy under the same weights fails,"):
            evaluated_afresh = _evaluate(_fresh_copy(target, case, weights), case)
            afresh = _step(target, _fresh_copy(target, case, weights), case)
        with _when("evaluated a second time, after a training step"):
            evaluated = _evaluate(model, case)
        with _when("trained on after an evaluation"):
            step = _step(target, model, case)
        gradients = other_gradients(afresh, step)
        return BetweenSteps(evaluated, evaluated_afresh, step.outputs, afresh.outputs, gradients)
