"""Autograd's gradients of a target's loss, and where differences of the loss say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.capture import captured_output
from verify.clips.case import Training
from verify.clips.forward import why_no_clip_forward
from verify.clips.run import failed, forward_clip, gradients_of, loss_of_target, loss_value, model_of
from verify.engine.finding import Violation
from verify.engine.place import Place, place_of
from verify.gradients.double import in_double, widened
from verify.gradients.held import Diverged, Held, holding
from verify.gradients.search import Weight, search
from verify.target.naming import Target


@dataclass(frozen=True)
class Wrong:
    """A parameter whose gradient is not the derivative of the loss."""

    name: str
    #: The class of its module, and where that one's forward is.
    module: str
    place: Place | None
    #: Derivatives along one direction: autograd's, None without a gradient; the differences', and their error.
    got: float | None
    expected: float
    error: float


@dataclass(frozen=True)
class Differentiated:
    """How autograd's gradients compare with differences of the loss."""

    case: Training
    loss: float
    #: In which precision it was computed.
    precision: str
    compared: int
    #: The names of those that were compared.
    parameters: tuple[str, ...]
    wrong: tuple[Wrong, ...]
    #: Groups of parameters of which some are wrong, not told apart; with whether they have gradients.
    groups: tuple[tuple[tuple[str, ...], bool], ...]
    #: What the differences do not settle for, without and with a gradient.
    undecided: tuple[tuple[str, ...], tuple[str, ...]]
    #: Without a gradient: frozen, or the loss does not move with them.
    frozen: tuple[str, ...]
    unused: tuple[str, ...]
    #: Lines that let values through without their gradient.
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A loss that can be computed again and again, as a function of a model's parameters."""

    model: nn.Module
    held: Held
    #: Computes it, the first time recording what is held fixed.
    compute: Callable[[], torch.Tensor]

    def value(self) -> float:
        """The loss, NaN where the computation takes another way than it first did."""
        try:
            return float(self.compute().detach())
        except Violation as violation:
            if isinstance(violation.__cause__, Diverged):
                return float("nan")
            raise

    def backward(self, loss: torch.Tensor, batch: Any) -> None:
        """Differentiate by an edge of the graph: by a tensor, modes in force here would not see recomputations."""
        if not loss.requires_grad:
            return
        try:
            torch.autograd.backward(get_gradient_edge(loss))
        except Exception as error:
            raise failed("the backward pass failed", error, batch) from error
        finally:
            progress()


def run_of(target: Target, case: Training, double: bool) -> tuple[Run, Any]:
    """Prepare a case's loss: by the forward over frames, or by sam3's one-frame forward where there is no other."""
    model, loss, batch = model_of(target, case), loss_of_target(target, case), batch_of(case)
    one_by_one = why_no_clip_forward(target) is not None
    if double:
        model, batch = model.double(), widened(batch)
    held, ran = Held(), [False]

    def compute() -> torch.Tensor:
        torch.manual_seed(case.seed)  # what a loss samples is the same each time
        with holding(held, ran[0], model, loss) as hold:
            stages, owner = forward_clip(model, batch, one_by_one)
            with hold.loss():
                value = loss_value(loss, stages, owner, batch)
        ran[0] = True
        return value

    return Run(model, held, compute), batch


def precision(double: bool) -> AbstractContextManager[Any]:
    return in_double() if double else nullcontext()


@contextmanager
def first_run(target: Target, case: Training) -> Iterator[tuple[Run, torch.Tensor, Any, str]]:
    """Compute a loss for the first time: in float64, or as the target does it where that fails.

    Yields:
        the run, its loss with its graph, the batch, and the precision in words.
    """
    run, batch = run_of(target, case, True)
    try:
        with precision(True):
            value = run.compute()
        double = value.dtype is torch.float64
    except Violation:
        double = False
    if not double:
        run, batch = run_of(target, case, False)
        value = run.compute()
    with precision(double):
        yield run, value, batch, "float64" if double else "float32"


def forward_of(model: nn.Module, parameter: str) -> tuple[str, Place | None]:
    """The class of a parameter's module and where the forward is that uses it: its owner's, unless that is torch's."""
    path = parameter.rpartition(".")[0]
    kind = type(model.get_submodule(path)).__name__
    while True:
        owner = type(model.get_submodule(path))
        place = None if owner.__module__.split(".")[0] == "torch" else place_of(owner.forward)
        if place is not None or not path:
            return kind, place
        path = path.rpartition(".")[0]


def has_a_backward_pass(rank: int, world_size: int, target: Target, case: Training) -> bool:
    """Whether the loss of a case can be computed and differentiated, in the precision that is taken here."""
    with sam3_on_cpu(), captured_output(), first_run(target, case) as (run, value, batch, _):
        run.backward(value, batch)
    return value.requires_grad


def differentiate(rank: int, world_size: int, target: Target, case: Training) -> Differentiated:
    """Compare autograd's gradients of a case's loss with differences of the loss."""
    with sam3_on_cpu(), captured_output(), first_run(target, case) as (run, value, batch, words):
        run.backward(value, batch)
        gradients = gradients_of(run.model)
        named = dict(run.model.named_parameters())
        weights = [
            Weight(name, parameter, gradients[name]) for name, parameter in named.items() if parameter.requires_grad
        ]

        def loss() -> float:
            progress()
            return run.value()

        sought = search(loss, weights)
        wrong = tuple(
            Wrong(item.name, *forward_of(run.model, item.name), item.got, item.expected, item.error)
            for item in sought.wrong
        )
        told = {*(item.name for item in wrong), *sought.undecided, *(name for group in sought.groups for name in group)}
        return Differentiated(
            case,
            float(value.detach()),
            words,
            len(weights),
            tuple(weight.name for weight in weights),
            wrong,
            tuple((group, gradients[group[0]] is not None) for group in sought.groups),
            (
                tuple(name for name in sought.undecided if gradients[name] is None),
                tuple(name for name in sought.undecided if gradients[name] is not None),
            ),
            tuple(name for name, parameter in named.items() if not parameter.requires_grad),
            tuple(weight.name for weight in weights if weight.gradient is None and weight.name not in told),
            tuple(map(str, sorted(run.held.stops))),
        )
