"""Training under DistributedDataParallel, on real processes, as the recipe configures it; each rank its own clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from hypothesis import strategies as st

from fixtures.ranks import RanksFailed
from verify.agreement import brief, difference
from verify.check import HAZARD, PROCESSES, THREADS, check
from verify.clip_forward import lacks_clip_forward
from verify.ddp import (
    PAIRINGS,
    WORDS,
    Carrying,
    DataParallel,
    Gradient,
    Observe,
    OneProcess,
    Trained,
    collectives_of_a_step,
    data_parallel,
    data_parallel_from_json,
    gradient_tolerances,
    in_groups,
    observe_gradient,
    observe_training,
    one_process,
    uneven,
    violation,
)
from verify.finding import Violation
from verify.scan import Scan, scan_from_json, scans
from verify.subject import lacks_buffer
from verify.target import Target
from verify.tolerance import distance

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[DataParallel]

ddp_check = partial(
    check,
    "ddp",
    observation=observe_training,
    from_json=data_parallel_from_json,
    lacks=lacks_clip_forward,
    carriers=(PROCESSES,),
    cost=3,
)


def _runs(target: Target, world_sizes: WorldSizes) -> Cases:
    return data_parallel(world_sizes)


def _observed(case: DataParallel, observe: Observe) -> tuple[Trained, ...]:
    try:
        return observe(case)
    except RanksFailed as failure:
        raise violation(f"training under DistributedDataParallel fails ({WORDS[case.pairing]})", failure) from failure


def _assert_trains(case: DataParallel, observe: Observe) -> None:
    """A run comes to its end, and every loss is a number."""
    for rank, trained in enumerate(_observed(case, observe)):
        for number, iteration in enumerate(trained.iterations, 1):
            if iteration.loss != iteration.loss or abs(iteration.loss) == float("inf"):
                raise Violation(
                    f"the loss of iteration {number} is {iteration.loss} ({WORDS[case.pairing]})", rank=rank
                )


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_without_segmentation(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run without a segmentation head, with a loss on boxes.

    This is the recipe's own configuration. DDP finds out at the second iteration that the first left something
    undone; a run that does one iteration may still not train.
    """
    _assert_trains(replace(case, pairing="boxes"), observe)


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_with_mask_loss(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run with a segmentation head and a loss on masks.

    Masks in the loss bring parameters into play that boxes do not reach; a model that trains on boxes can fail on
    masks.
    """
    _assert_trains(replace(case, pairing="masks"), observe)


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_with_unused_masks(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run with a segmentation head and a loss on boxes alone.

    The masks are then outputs that no loss uses. DDP waits for a gradient of every parameter behind an output it was
    shown; find_unused_parameters finds those behind no output, and not those behind an output without loss. Training
    then ends at the second iteration ("Expected to have finished reduction in the prior iteration").
    """
    _assert_trains(replace(case, pairing="boxes beside masks"), observe)


def _pairings(case: DataParallel) -> list[DataParallel]:
    """A case in each pairing; on more than two ranks, which average as two do, in the recipe's own alone."""
    return [replace(case, pairing=pairing) for pairing in (PAIRINGS if case.world_size <= 2 else ("boxes",))]


def _dense(gradient: Gradient | None, like: Gradient) -> torch.Tensor:
    if gradient is None:
        return torch.zeros(like.shape, dtype=torch.float64)
    return gradient.to_dense().double()


def _differing(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> list[str]:
    return [name for name in one if one[name] != other.get(name)]


def _assert_same_weights(case: DataParallel, seen: tuple[Trained, ...]) -> None:
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
                    f"{in_groups(names)}",
                    rank=rank,
                    tensor=names[0],
                )


def _assert_same_gradients(case: DataParallel, seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> None:
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
                f"({WORDS[case.pairing]}; {in_groups(names)}){why}",
                rank=rank,
                tensor=name,
                expected=f"as on rank 0: {_told(seen[0], number, name)}",
                got=_told(trained, number, name),
            )


def _told(trained: Trained, number: int, name: str) -> str:
    if number == 0:
        gradient = trained.first[name]
        return "no gradient" if gradient is None else brief(gradient.to_dense())
    digest = trained.iterations[number].gradients[name]
    return "no gradient" if digest is None else f"digest {digest}"


def _are_their_own(seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> bool:
    """Whether each rank's gradients are those that its clip gives in a single process."""
    near = gradient_tolerances(alone)
    for trained, single in zip(seen, alone, strict=True):
        for name, got in trained.first.items():
            own = single.gradients.get(name)
            known = got if got is not None else own
            if known is not None and distance(_dense(own, known), _dense(got, known)) > near.get(name, 0.0):
                return False
    return True


def _assert_mean(case: DataParallel, seen: tuple[Trained, ...], alone: tuple[OneProcess, ...]) -> None:
    """The gradient of the first iteration is the mean, over ranks, of what a single process computes."""
    near = gradient_tolerances(alone)
    for name, got in seen[0].first.items():
        singles = [each.gradients.get(name) for each in alone]
        known = next((gradient for gradient in (got, *singles) if gradient is not None), None)
        if known is None:
            continue
        terms = torch.stack([_dense(single, known) for single in singles])
        expected, found = terms.mean(0), _dense(got, known)
        if distance(expected, found) <= near.get(name, 0.0):
            continue
        parts = "; ".join(f"rank {rank}'s clip {float(term.norm()):.6g}" for rank, term in enumerate(terms))
        raise Violation(
            f"the gradient that all ranks hold is not the mean of what a single process computes of each rank's clip "
            f"({WORDS[case.pairing]}). Norms: {float(found.norm()):.6g} under DDP, {float(expected.norm()):.6g} "
            f"the mean; {parts}",
            rank=0,
            tensor=name,
            expected=f"{brief(expected.float())}, within {near.get(name, 0.0):.3g}",
            got=f"{'no gradient' if got is None else brief(found.float())}; {difference(expected, found)}",
        )


def _assert_same_end(case: DataParallel, seen: tuple[Trained, ...]) -> None:
    """All ranks end with the same parameters."""
    for rank, trained in enumerate(seen):
        if names := _differing(seen[0].left, trained.left):
            raise Violation(
                f"after {case.iterations} iterations the parameters of rank {rank} differ from those of rank 0 "
                f"({WORDS[case.pairing]}; {in_groups(names)})",
                rank=rank,
                tensor=names[0],
            )


def _alone(target: Target, case: DataParallel) -> tuple[OneProcess, ...]:
    try:
        return one_process(target, case.pairing, case.clips())
    except RanksFailed as failure:
        raise violation(
            f"training on the ranks' clips in a single process fails ({WORDS[case.pairing]})", failure
        ) from (failure)


@ddp_check(_runs, draws="ddp")
def test_ddp_gradients(case: DataParallel, observe: Observe, target: Target) -> None:
    """After backward the gradients are equal on all ranks, and the mean of those that a single process computes.

    DistributedDataParallel averages gradients only where its own forward is called: training code that calls
    model.module, or stays under no_sync, leaves each rank with a model of its own, of which one is saved. Ranks whose
    weights or frames differ without saying so train what nobody asked for, with no error.
    """
    for each in _pairings(case):
        try:
            seen = _observed(each, observe)
        except Violation:
            if each.pairing == "boxes beside masks":
                continue  # that this ends at the second iteration is another check's to say
            raise
        alone = _alone(target, each)
        _assert_same_weights(each, seen)
        _assert_same_gradients(each, seen, alone)
        _assert_mean(each, seen, alone)
        _assert_same_end(each, seen)


def _uneven(target: Target, world_sizes: WorldSizes) -> Cases:
    return uneven(world_sizes)


def _why_uneven_fails(target: Target, case: DataParallel) -> str:
    """Say which collectives depend on the length of a clip; "" where none does."""
    counts = {}
    for length in sorted(set(case.frames)):
        spec = replace(case.clip(0), frames=length)
        try:
            counts[length] = collectives_of_a_step(target, case.pairing, spec)
        except RanksFailed:
            return ""
    if len(set(counts.values())) <= 1:
        return ""
    told = ", ".join(
        f"{len(issued)} ({', '.join(sorted(set(issued)))}) on a clip of {length} frames"
        for length, issued in counts.items()
    )
    return (
        f". Forward and loss issue collectives of their own: {told}. On ranks with clips of different lengths they "
        'meet others of DDP (sam3\'s loss with normalization="global" all-reduces once a frame; "local" does not)'
    )


@ddp_check(_uneven, every_size=False)
def test_ddp_uneven_clips(case: DataParallel, observe: Observe, target: Target) -> None:
    """Ranks whose clips differ in length train on: none hangs, none dies, and each collective meets its own.

    Videos differ in length. A collective issued once a frame meets, on another rank, one of another frame or of DDP
    itself: the process aborts, waits for ever, or adds up what does not belong together.
    """
    lengths = " and ".join(map(str, case.frames))
    try:
        seen = observe(case)
    except RanksFailed as failure:
        raise violation(
            f"ranks with clips of {lengths} frames do not train{_why_uneven_fails(target, case)}. What happened",
            failure,
        ) from failure
    alone = _alone(target, case)
    _assert_same_gradients(case, seen, alone)
    if all(_same_loss(trained, single) for trained, single in zip(seen, alone, strict=True)):
        # A loss that is normalised over ranks may weigh clips otherwise than a single process does.
        _assert_mean(case, seen, alone)
    _assert_same_end(case, seen)


def _same_loss(trained: Trained, alone: OneProcess) -> bool:
    return abs(trained.iterations[0].loss - alone.loss) <= 1e-6 * abs(alone.loss)


def _unlike(target: Target, world_sizes: WorldSizes) -> Cases:
    """One iteration on clips that are not alike: odd ranks have no objects, even ranks no box prompts."""
    return data_parallel(world_sizes, objects=(2, 0), boxes=(0, 1), iterations=1)


@ddp_check(_unlike, every_size=False)
def test_ddp_unused_parameters(case: DataParallel, observe: Observe, target: Target) -> None:
    """The parameters that get no gradient are the same on every rank, whatever its clip holds.

    DDP takes a gradient that one rank lacks for zero and divides by all ranks: a part of the model that runs on some
    ranks only is trained with a fraction of its gradient, and nothing says so.
    """
    for each in _pairings(case):
        seen = _observed(each, observe)
        for number in range(each.iterations):
            mine = seen[0].iterations[number].used
            for rank, trained in enumerate(seen):
                used = trained.iterations[number].used
                if used == mine:
                    continue
                more, fewer = sorted(used - mine), sorted(mine - used)
                raise Violation(
                    f"in iteration {number + 1} other parameters are unused on rank {rank} than on rank 0 "
                    f"({WORDS[each.pairing]})",
                    rank=rank,
                    tensor=(fewer or more)[0],
                    expected=f"{len(mine)} parameters with gradient, as on rank 0",
                    got=f"{len(used)}; only on rank {rank}: {in_groups(more) or 'none'}; "
                    f"only on rank 0: {in_groups(fewer) or 'none'}",
                )


def _several_ranks(target: Target, world_sizes: WorldSizes) -> st.SearchStrategy[Scan]:
    few = world_sizes.filter(lambda size: 1 < size <= 3)
    return scans(few, max_frames=3, min_frames=2, from_end=True, suppression=st.none(), layouts=("contiguous",)).map(
        lambda scan: replace(scan, geometric=0, gather=False)
    )


@check(
    "ddp",
    _several_ranks,
    observe_gradient,
    scan_from_json,
    lacks=lacks_buffer,
    kind=HAZARD,
    carriers=(THREADS,),
    cost=8,
)
def test_gradient_through_buffer(case: Scan, observe: Callable[[Scan], tuple[Carrying, ...]], target: Target) -> None:
    """What the chunked buffer returns carries gradient at every world size, or at none.

    Gathering drops gradients unless it is told not to. Code that trains through the buffer then learns on one GPU,
    and silently does not on several.
    """
    single = observe(replace(case, world_size=1))[0]
    for rank, answers in enumerate(observe(case)):
        for visit, expected, got in zip(case.calls(), single, answers, strict=True):
            for tensor in sorted(set(expected) & set(got)):
                if expected[tensor] != got[tensor]:
                    words = {True: "carries gradient", False: "carries no gradient"}
                    raise Violation(
                        f"{tensor} of frame {visit.frame} {words[expected[tensor]]} with one rank and "
                        f"{words[got[tensor]]} with {case.world_size}",
                        rank=rank,
                        frame=visit.frame,
                        tensor=tensor,
                        expected=words[expected[tensor]],
                        got=words[got[tensor]],
                    )
