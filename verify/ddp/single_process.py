"""What a single process computes of each rank's clip, from the weights that a run begins with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from sam3.model.data_misc import BatchedDatapoint
from torch import nn

from fixtures.ranks import RankResult, Threads
from fixtures.ranks.single import a_rank_on_a_gpu
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.cpu import sam3_on_cpu
from verify.ddp.case import PAIRINGS
from verify.ddp.gradients import Gradient, Gradients, copied_gradients, dense
from verify.ddp.step import criterion_of, trained_model, training_step
from verify.target.naming import Target
from verify.tensors.tolerance import perturbed, tolerances


@dataclass(frozen=True)
class OneProcess:
    """What a single process computes of one rank's clip."""

    loss: float
    gradients: Gradients
    #: The same of the clip with its pixels moved by one rounding step; of rank 0's clip alone.
    perturbed: Gradients


class Unwrapped(nn.Module):
    """Stands for DDP around a model in a single process: what calls the one can call the other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def no_sync(self) -> Any:
        return nullcontext()


def _train_alone(
    rank: int, world_size: int, target: Target, pairing: str, specs: tuple[ClipSpec, ...], also_perturbed: bool
) -> tuple[OneProcess, ...]:
    segmentation, masks = PAIRINGS[pairing]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in ranks: sums of floats must not depend on how many there are
    try:
        with sam3_on_cpu():
            model = trained_model(target, segmentation)
            criterion = criterion_of(target, masks)

            def gradients(batch: BatchedDatapoint) -> tuple[float, dict[str, Gradient | None]]:
                model.zero_grad(set_to_none=True)
                return training_step(target, Unwrapped(model), criterion, batch), copied_gradients(model)

            results: list[OneProcess] = []
            for spec in specs:
                batch = make_clip(spec)
                loss, found = gradients(batch)
                moved: Gradients = {}
                if also_perturbed and not results:
                    moved = gradients(replace(batch, img_batch=perturbed(batch.img_batch)))[1]
                results.append(OneProcess(loss, found, moved))
            return tuple(results)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=16)
def one_process(target: Target, pairing: str, specs: tuple[ClipSpec, ...]) -> tuple[OneProcess, ...]:
    """Compute loss and gradients of each clip by itself, from the weights a run begins with.

    In a process that is the only rank of its job, for a loss may ask its process group; on a GPU where that is
    compared with ranks on NCCL.

    Raises:
        RanksFailed: when that fails.
    """
    on_a_gpu = a_rank_on_a_gpu()
    ranks = on_a_gpu or Threads()
    try:
        return ranks.run(_train_alone, 1, target, pairing, specs, True)[0].value
    finally:
        if on_a_gpu is None:
            ranks.close()


def _on_the_only_rank(function: Callable[..., Any], *args: Any) -> RankResult:
    """Run a function as the only rank of a job: a loss may ask its process group."""
    ranks = Threads()
    try:
        return ranks.run(function, 1, *args)[0]
    finally:
        ranks.close()


def _loss_moves(
    rank: int, world_size: int, target: Target, pairing: str, spec: ClipSpec, names: tuple[str, ...]
) -> tuple[str, ...]:
    segmentation, masks = PAIRINGS[pairing]
    with sam3_on_cpu():
        model = trained_model(target, segmentation)
        parameters = dict(model.named_parameters())
        criterion, batch = criterion_of(target, masks), make_clip(spec)

        def loss_with(moved: tuple[str, ...]) -> float:
            kept = {name: parameters[name].detach().clone() for name in moved}
            try:
                with torch.no_grad():
                    for name in moved:
                        parameters[name].add_(1 + parameters[name].abs())
                return training_step(target, Unwrapped(model), criterion, batch)
            finally:
                with torch.no_grad():
                    for name, value in kept.items():
                        parameters[name].copy_(value)

        before = loss_with(())
        if loss_with(names) == before:
            return ()
        return tuple(name for name in names if loss_with((name,)) != before) or names


def moving_the_loss(target: Target, pairing: str, spec: ClipSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """Which parameters, of those named, the loss of a clip hangs on: it is another when they are.

    Raises:
        RanksFailed: when that fails.
    """
    found: tuple[str, ...] = _on_the_only_rank(_loss_moves, target, pairing, spec, names).value
    return found


def gradient_tolerances(alone: tuple[OneProcess, ...]) -> dict[str, float]:
    """How far a gradient may lie from the one that a single process computes, by parameter.

    Ranks do the same sums in the same order, and yet not to the bit: functions that torch compiles run otherwise the
    first time they are called in a process. Means over ranks may lie as far off as their terms.
    """
    return tolerances([(dense(alone[0].gradients), dense(alone[0].perturbed))])


@lru_cache(maxsize=16)
def collectives_of_a_step(target: Target, pairing: str, spec: ClipSpec) -> tuple[str, ...]:
    """The collectives that the forward and the loss of one clip issue by themselves, in a single process."""
    log = _on_the_only_rank(_train_alone, target, pairing, (spec,), False).collectives
    return tuple(entry.operation for entry in log)
