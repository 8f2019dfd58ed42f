"""Training under DistributedDataParallel, on real processes, as the recipe configures it; each rank its own clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hypothesis import strategies as st

from fixtures.ranks import RanksFailed
from verify.clips.case import Training, training_from_json, trainings
from verify.clips.forward import place_of_forward, why_no_clip_forward
from verify.clips.observe import on_one_rank
from verify.configuration.precision import why_no_autocast
from verify.ddp.agreement import (
    assert_mean,
    assert_same_end,
    assert_same_gradients,
    assert_same_weights,
    assert_trains,
    assert_trains_under_autocast,
    in_one_process,
    lost_on,
    observed_training,
    same_loss,
)
from verify.ddp.case import PAIRINGS, WORDS, DataParallel, data_parallel, data_parallel_from_json, uneven
from verify.ddp.frames_of_step import FramesOfStep, frames_of_step, place_of_step, why_no_step
from verify.ddp.observation import Observe, observe_training, violation
from verify.ddp.pictures import collectives_pictures, shows
from verify.ddp.single_process import collectives_of_a_step
from verify.ddp.through_buffer import Carrying, observe_gradient, why_no_gradient_through_buffer
from verify.engine.check import HAZARD, PROCESSES, THREADS, check
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.describe import count_by_part
from verify.video.detector import is_batched, place_of_buffer
from verify.video.scan import Scan, scan_from_json, scans

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[DataParallel]
ddp_check = partial(
    check,
    "ddp",
    observation=observe_training,
    from_json=data_parallel_from_json,
    why_not_provided=why_no_clip_forward,
    launchers=(PROCESSES,),
    cost=3,
    rests_on=("test_step_runs",),
    place_of_code=place_of_forward,
)


def _runs(target: Target, world_sizes: WorldSizes) -> Cases:
    return data_parallel(world_sizes)


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_without_segmentation(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run without a segmentation head, with a loss on boxes.

    This is the recipe's own configuration. DDP finds out at the second iteration that the first left something
    undone; a run that does one iteration may still not train.
    """
    assert_trains(replace(case, pairing="boxes"), observe)


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_with_mask_loss(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run with a segmentation head and a loss on masks.

    Masks in the loss bring parameters into play that boxes do not reach; a model that trains on boxes can fail on
    masks.
    """
    assert_trains(replace(case, pairing="masks"), observe)


@ddp_check(_runs, draws="ddp", every_size=False)
def test_ddp_with_unused_masks(case: DataParallel, observe: Observe, target: Target) -> None:
    """Three iterations under DistributedDataParallel run with a segmentation head and a loss on boxes alone.

    The masks are then outputs that no loss uses. DDP waits for a gradient of every parameter behind an output it was
    shown; find_unused_parameters finds those behind no output, and not those behind an output without loss. Training
    then ends at the second iteration ("Expected to have finished reduction in the prior iteration").
    """
    assert_trains(replace(case, pairing="boxes beside masks"), observe)


def _pairings(case: DataParallel) -> list[DataParallel]:
    """A case in each pairing; on more than two ranks, which average as two do, in the recipe's own alone."""
    return [replace(case, pairing=pairing) for pairing in (PAIRINGS if case.world_size <= 2 else ("boxes",))]


@ddp_check(_runs, draws="ddp")
def test_ddp_gradients(case: DataParallel, observe: Observe, target: Target) -> None:
    """After backward the gradients are equal on all ranks, and the mean of those that a single process computes.

    DistributedDataParallel averages gradients only where its own forward is called: training code that calls
    model.module, or stays under no_sync, leaves each rank with a model of its own, of which one is saved. Ranks whose
    weights or frames differ without saying so train what nobody asked for, with no error.
    """
    for each in _pairings(case):
        try:
            seen = observed_training(each, observe)
        except Violation:
            if each.pairing == "boxes beside masks":
                continue  # that this ends at the second iteration is another check's to say
            raise
        alone = in_one_process(target, each)
        assert_same_weights(each, seen)
        assert_same_gradients(each, seen, alone)
        assert_mean(each, seen, alone)
        assert_same_end(each, seen)


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
    counted = ", ".join(
        f"{len(issued)} ({', '.join(sorted(set(issued)))}) on a clip of {length} frames"
        for length, issued in counts.items()
    )
    return (
        f". Forward and loss issue collectives of their own: {counted}. On ranks with clips of different lengths they "
        'meet others of DDP (sam3\'s loss with normalization="global" all-reduces once a frame; "local" does not)'
    )


@ddp_check(_uneven, every_size=False, pictures=collectives_pictures, shows=shows)
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
    alone = in_one_process(target, case)
    assert_same_gradients(case, seen, alone)
    if all(same_loss(trained, single) for trained, single in zip(seen, alone, strict=True)):
        # A loss that is normalised over ranks may weigh clips otherwise than a single process does.
        assert_mean(case, seen, alone)
    assert_same_end(case, seen)


def _unlike(target: Target, world_sizes: WorldSizes) -> Cases:
    """One iteration on clips that are not alike: odd ranks have no objects, even ranks no box prompts."""
    return data_parallel(world_sizes, objects=(2, 0), boxes=(0, 1), iterations=1)


@ddp_check(_unlike, every_size=False)
def test_ddp_unused_parameters(case: DataParallel, observe: Observe, target: Target) -> None:
    """The parameters without a gradient are the same on every rank, but for those that a clip's loss does not hang on.

    DDP takes a gradient that one rank lacks for zero and divides by all ranks: a part of the model that is cut off on
    some ranks is trained with a fraction of its gradient, and nothing says so. A part that a clip has nothing for, such
    as the projections of boxes where there are none, has a gradient of zero, and may as well have none.
    """
    for each in _pairings(case):
        seen = observed_training(each, observe)
        for number in range(each.iterations):
            mine = seen[0].iterations[number].used
            for rank, trained in enumerate(seen):
                used = trained.iterations[number].used
                lost = {
                    where: lost_on(target, each, where, number, names)
                    for where, names in ((rank, mine - used), (0, used - mine))
                    if names
                }
                without = next((where for where, names in lost.items() if names), None)
                if without is None:
                    continue
                more, fewer = sorted(used - mine), sorted(mine - used)
                raise Violation(
                    f"in iteration {number + 1} other parameters are unused on rank {rank} than on rank 0 "
                    f"({WORDS[each.pairing]}): on rank {without} the loss hangs on them all the same",
                    rank=without,
                    tensor=lost[without][0],
                    expected=f"{len(mine)} parameters with gradient, as on rank 0",
                    got=f"{len(used)}; only on rank {rank}: {count_by_part(more) or 'none'}; "
                    f"only on rank 0: {count_by_part(fewer) or 'none'}",
                )


@ddp_check(
    _runs,
    why_not_provided=lambda target: why_no_clip_forward(target) or why_no_autocast(target),
    rests_on=("test_step_runs", "test_step_under_autocast"),
    draws="ddp",
    every_size=False,
)
def test_ddp_under_autocast(case: DataParallel, observe: Observe, target: Target) -> None:
    """A step under autocast and DistributedDataParallel runs, and trains on each rank what it does in full precision.

    With each pairing of segmentation head and loss. The recipe trains so; results that are rounded to another precision
    do not fit into what was set aside for a collective, and weights kept without gradient train on no rank.
    """
    for pairing in PAIRINGS:
        assert_trains_under_autocast(replace(case, pairing=pairing), observe)


def _several_frames(target: Target, world_sizes: WorldSizes) -> st.SearchStrategy[Training]:
    return trainings(frames=st.sampled_from((2, 3, 4)))


@check(
    "ddp",
    _several_frames,
    on_one_rank(frames_of_step),
    training_from_json,
    why_not_provided=why_no_clip_forward,
    why_not_applicable=why_no_step,
    launchers=(THREADS,),
    cost=12,
    rests_on=("test_step_runs",),
    place_of_code=place_of_step,
)
def test_own_step(case: Training, observe: Callable[[Training], FramesOfStep], target: Target) -> None:
    """The target's own training step gives a stage for each frame of its clip, in their order.

    The trainer pairs stages with targets by their number. A step that plays a clip backwards, or gives the model one
    frame for all, trains each frame on what another one shows, and the loss falls all the same.
    """
    seen = observe(case)
    got, own = seen.stages
    if got != own:
        raise Violation(
            f"the training step gives {got} stages for a clip of {case.frames} frames",
            expected=f"{own}, as the model gives",
            got=got,
        )
    for stage, frame in seen.others.items():
        raise Violation(
            f"stage {stage} of what the training step gives holds the outputs of frame {frame}",
            frame=stage,
            expected=f"the outputs of frame {stage}",
            got=", ".join(f"stage {number}: frame {other}" for number, other in seen.others.items()),
        )


def _several_ranks(target: Target, world_sizes: WorldSizes) -> st.SearchStrategy[Scan]:
    few = world_sizes.filter(lambda size: 1 < size <= 3)
    drawn = scans(
        few,
        max_frames=3,
        min_frames=2,
        from_end=True,
        suppression=st.none(),
        layouts=("contiguous",),
        batched=is_batched(target),
    )
    return drawn.map(lambda scan: replace(scan, geometric=0, gather=False))


@check(
    "ddp",
    _several_ranks,
    observe_gradient,
    scan_from_json,
    why_not_provided=why_no_gradient_through_buffer,
    kind=HAZARD,
    launchers=(THREADS,),
    cost=8,
    per_subject=True,
    place_of_code=place_of_buffer,
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
