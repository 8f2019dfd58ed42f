"""Training under DistributedDataParallel: what every rank saw of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from fixtures.ranks import Ranks, RanksFailed, during, progress
from fixtures.synthetic.clips import make_clip
from fixtures.toy.cpu import sam3_on_cpu
from verify.configuration.precision import trained_in
from verify.ddp.case import DataParallel
from verify.ddp.gradients import Gradient, Gradients, copied_gradients, digest, digests
from verify.ddp.step import criterion_of, trained_model, training_step
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.describe import count_by_part

#: The recipe's largest norm of a gradient.
MAX_NORM = 0.1
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Iteration:
    """What a rank saw of one iteration."""

    loss: float
    #: Parameters that got a gradient from this rank's own backward pass.
    used: frozenset[str]
    #: Those whose gradient, as the optimiser sees it, holds what is no number.
    infinite: frozenset[str]
    #: A digest of each parameter's gradient as the optimiser sees it; None where there is none.
    gradients: Mapping[str, str | None]


@dataclass(frozen=True)
class Trained:
    """What a rank saw of a run."""

    iterations: tuple[Iteration, ...]
    #: The gradients of the first iteration, by parameter.
    first: Gradients
    #: Digests of the parameters as DDP wrapped them, as the first forward found and left them, and after the run.
    wrapped: Mapping[str, str]
    entered: Mapping[str, str]
    left: Mapping[str, str]


class IterationFailed(Exception):
    """An iteration raised; the message names it, and what had no gradient in the one before."""


def train(rank: int, world_size: int, target: Target, case: DataParallel) -> Trained:
    """One rank's part of a training run, as the recipe configures it.

    Raises:
        IterationFailed: when an iteration raises.
    """
    torch.set_num_threads(1)
    with sam3_on_cpu():
        model = trained_model(target, case.segmentation)
        criterion = criterion_of(target, case.masks)
        precision = trained_in(target) if case.autocast else torch.float32
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        used: set[str] = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: None if gradient is None else used.add(name))
        progress()
        wrapped = DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
        before = digests(model)
        entered: dict[str, str] = {}
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        seen: list[Iteration] = []
        first: dict[str, Gradient | None] = {}
        for number in range(case.iterations):
            optimiser.zero_grad(set_to_none=True)
            used.clear()
            clip = case.clip(rank, number)
            try:
                with during(f"iteration {number + 1}, on a clip of {clip.frames} frames"):
                    loss = training_step(target, wrapped, criterion, make_clip(clip), precision)
            except Exception as error:
                unused = count_by_part(set(names) - seen[-1].used) if seen else ""
                without_gradient = f"; without gradient in iteration {number}: {unused}" if unused else ""
                first_line = (str(error).strip().splitlines() or [""])[0]
                reason = f"{type(error).__name__}: {first_line}{without_gradient}"
                raise IterationFailed(f"iteration {number + 1}: {reason}") from error
            gradients = {
                name: None if parameter.grad is None else digest(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            if not seen:
                first, entered = copied_gradients(model), digests(model)
            infinite = frozenset(
                name
                for name, parameter in model.named_parameters()
                if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
            )
            seen.append(Iteration(loss, frozenset(used), infinite, gradients))
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimiser.step()
            progress()
        return Trained(tuple(seen), first, before, entered, digests(model))


#: What ranks saw of a run, or how it failed: checks that look at the same run share it.
_seen: weakref.WeakKeyDictionary[Any, dict[tuple[Target, DataParallel], tuple[Trained, ...] | RanksFailed]] = (
    weakref.WeakKeyDictionary()
)
_KEPT = 16


def observe_training(ranks: Ranks, target: Target, case: DataParallel) -> tuple[Trained, ...]:
    """Train on ranks; gives what each of them saw. A run that another check has observed is not run again.

    Raises:
        RanksFailed: when a rank fails, dies or hangs.
    """
    kept = _seen.setdefault(ranks, {})
    key = (target, case)
    if key not in kept:
        while len(kept) >= _KEPT:
            kept.pop(next(iter(kept)))
        try:
            kept[key] = tuple(result.value for result in ranks.run(train, case.world_size, target, case))
        except RanksFailed as failure:
            kept[key] = failure
    found = kept[key]
    if isinstance(found, RanksFailed):
        raise found
    return found


_AT_FAULT = ("raised", "exited", "killed", "running")


def violation(message: str, failure: RanksFailed) -> Violation:
    """A failed run of ranks as a violation: the message, the failure's reason, the stacks."""
    culprit = next((status.rank for status in failure.statuses if status.state in _AT_FAULT), None)
    details = "\n".join(str(failure).splitlines()[1:])
    return Violation(f"{message}: {failure.reason}", rank=culprit, details=details)


Observe = Callable[[DataParallel], tuple[Trained, ...]]
