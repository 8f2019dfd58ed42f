"""Comparisons of what ranks saw under DistributedDataParallel with each other and with a single process."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import replace

import torch

from fixtures.ranks import RanksFailed
from verify.ddp.case import WORDS, DataParallel
from verify.ddp.gradients import Gradient
from verify.ddp.observation import Observe, Trained, violation
from verify.ddp.single_process import OneProcess, gradient_tolerances, moving_the_loss, one_process
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.describe import count_by_part, describe_difference, describe_tensor
from verify.tensors.tolerance import distance


def observed_training(case: DataParallel, observe: Observe) -> tuple[Trained, ...]:
    try:
        return observe(case)
    except RanksFailed as failure:
        raise violation(f"training under DistributedDataParallel fails ({WORDS[case.pairing]})", failure) from failure


def assert_trains(case: DataParallel, observe: Observe) -> None:
    """A run comes to its end, and every loss is a number."""
    for rank, trained in enumerate(observed_training(case, observe)):
        for number, iteration in enumerate(trained.iterations, 1):
            if iteration.loss != iteration.loss or abs(iteration.loss) == float("inf"):
                raise Violation(
                    f"the loss of iteration {number} is {iteration.loss} ({WORDS[case.pairing]})", rank=rank
                )


def dense_or_zero(gradient: Gradient | None, like: Gradient) -> torch.Tensor:
    if gradient is None:
        return torch.zeros(like.shape, dtype=torch.float64)
    return gradient.to_dense().double()


def _differing(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> list[str]:
    return [name for name in one if one[name] != other.get(name)]


def assert_same_weights(case: DataParallel, seen: tuple[Trained, ...]) -> None:
    """All ranks hold the same parameters when training begins."""
    moments: list[tuple[str, Callable[[Trained], Mapping[str, str]]]] = [
        ("once DistributedDataParallel has wrapped the model", lambda trained: trained.wrapped),
        ("after the first forward and backward", lambda trained: trained.entered),
    ]
    for moment, of in moments:
        for rank, trained in enumerate(seen):
            if names := _differing(of(seen[0]), of(trained)):
                raise Violation(
                    f"the parameters of rank {rank} differ from those of rank 0 {moment} ({WORDS[case.pairing]}): "
                    f"DDP keeps copies equal that begin equal; these train different models. Differing: "
                    f"{count_by_part(names)}",
                    rank=rank,
                    tensor=names[0],
                )


def assert_same_gradients(case: DataParallel, seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> None:
    """All ranks hold the same gradient after each backward, bit for bit."""
    for number in range(case.iterations):
        for rank, trained in enumerate(seen):
            names = _differing(seen[0].iterations[number].gradients, trained.iterations[number].gradients)
            if not names:
                continue
            name = names[0]
            why = ""
            if number == 0 and _are_their_own(seen, alone):
                why = (
                    ": each rank holds the gradient of its own clip, and nothing was averaged. The model is called "
                    "past DistributedDataParallel's forward (as model.module(...) or model.module.forward(...) does), "
                    "or under no_sync()"
                )
            raise Violation(
                f"after backward of iteration {number + 1}, gradients of rank {rank} differ from those of rank 0 "
                f"({WORDS[case.pairing]}; {count_by_part(names)}){why}",
                rank=rank,
                tensor=name,
                expected=f"as on rank 0: {_describe_gradient(seen[0], number, name)}",
                got=_describe_gradient(trained, number, name),
            )


def _describe_gradient(trained: Trained, number: int, name: str) -> str:
    if number == 0:
        gradient = trained.first[name]
        return "no gradient" if gradient is None else describe_tensor(gradient.to_dense())
    digest = trained.iterations[number].gradients[name]
    return "no gradient" if digest is None else f"digest {digest}"


def _are_their_own(seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> bool:
    """Whether each rank's gradients are those that its clip gives in a single process."""
    near = gradient_tolerances(alone)
    for trained, single in zip(seen, alone, strict=True):
        for name, got in trained.first.items():
            own = single.gradients.get(name)
            known = got if got is not None else own
            if known is not None and distance(dense_or_zero(own, known), dense_or_zero(got, known)) > near.get(
                name, 0.0
            ):
                return False
    return True


def assert_mean(case: DataParallel, seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> None:
    """The gradient of the first iteration is the mean, over ranks, of what a single process computes."""
    near = gradient_tolerances(alone)
    for name, got in seen[0].first.items():
        singles = [each.gradients.get(name) for each in alone]
        known = next((gradient for gradient in (got, *singles) if gradient is not None), None)
        if known is None:
            continue
        terms = torch.stack([dense_or_zero(single, known) for single in singles])
        expected, found = terms.mean(0), dense_or_zero(got, known)
        if distance(expected, found) <= near.get(name, 0.0):
            continue
        parts = "; ".join(f"rank {rank}'s clip {float(term.norm()):.6g}" for rank, term in enumerate(terms))
        raise Violation(
            f"the gradient that all ranks hold is not the mean of what a single process computes of each rank's clip "
            f"({WORDS[case.pairing]}). Norms: {float(found.norm()):.6g} under DDP, {float(expected.norm()):.6g} "
            f"the mean; {parts}",
            rank=0,
            tensor=name,
            expected=f"{describe_tensor(expected.float())}, within {near.get(name, 0.0):.3g}",
            got=("no gradient" if got is None else describe_tensor(found.float()))
            + f"; {describe_difference(expected, found)}",
        )


def assert_same_end(case: DataParallel, seen: tuple[Trained, ...]) -> None:
    """All ranks end with the same parameters."""
    for rank, trained in enumerate(seen):
        if names := _differing(seen[0].left, trained.left):
            raise Violation(
                f"after {case.iterations} iterations the parameters of rank {rank} differ from those of rank 0 "
                f"({WORDS[case.pairing]}; {count_by_part(names)})",
                rank=rank,
                tensor=names[0],
            )


def assert_trains_under_autocast(case: DataParallel, observe: Observe) -> None:
    """A step comes to its end under autocast, with gradients of the parameters that have them in full precision."""
    try:
        seen = observe(replace(case, autocast=True, iterations=1))
    except RanksFailed as failure:
        message = f"a step under autocast and DistributedDataParallel fails ({WORDS[case.pairing]})"
        raise violation(message, failure) from failure
    for rank, trained in enumerate(seen):
        loss, infinite = trained.iterations[0].loss, trained.iterations[0].infinite
        if not math.isfinite(loss):
            raise Violation(f"the loss under autocast is {loss} ({WORDS[case.pairing]})", rank=rank)
        _refuse(infinite, "gradients are not finite under autocast", case, rank)
    try:
        plain = observe(case)
    except RanksFailed:
        return  # what fails in full precision is other checks' to say
    for rank, (trained, full) in enumerate(zip(seen, plain, strict=True)):
        got, expected = trained.iterations[0], full.iterations[0]
        _refuse(expected.used - got.used, "gradients come in full precision, and not under autocast", case, rank)
        _refuse(got.used - expected.used, "gradients come under autocast, and not in full precision", case, rank)
        if not _differing(plain[0].iterations[0].gradients, expected.gradients):
            differing = _differing(seen[0].iterations[0].gradients, got.gradients)
            _refuse(differing, "gradients differ from those of rank 0 under autocast alone", case, rank)


def _refuse(names: Collection[str], what: str, case: DataParallel, rank: int) -> None:
    if names:
        message = f"{what} ({WORDS[case.pairing]}; {count_by_part(names)})"
        raise Violation(message, rank=rank, tensor=min(names))


def in_one_process(target: Target, case: DataParallel) -> tuple[OneProcess, ...]:
    try:
        return one_process(target, case.pairing, case.clips())
    except RanksFailed as failure:
        raise violation(
            f"training on the ranks' clips in a single process fails ({WORDS[case.pairing]})", failure
        ) from (failure)


def lost_on(target: Target, case: DataParallel, rank: int, number: int, names: Set[str]) -> tuple[str, ...]:
    """Which parameters that got no gradient on a rank in an iteration the loss of its clip hangs on all the same."""
    try:
        return moving_the_loss(target, case.pairing, case.clip(rank, number), tuple(sorted(names)))
    except RanksFailed as failure:
        raise violation(
            f"a step on rank {rank}'s clip in a single process fails, with other weights ({WORDS[case.pairing]})",
            failure,
        ) from failure


def same_loss(trained: Trained, alone: OneProcess) -> bool:
    return abs(trained.iterations[0].loss - alone.loss) <= 1e-6 * abs(alone.loss)
