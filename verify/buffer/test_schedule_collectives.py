"""What ranks send each other: waited for, contiguous, in the same order on all ranks, and no more than asked for."""

from __future__ import annotations

import torch

from reference.oracle import schedule
from verify.buffer.agreement import all_calls, assert_own_detections, frame_set, violation_at, violation_by_collective
from verify.buffer.case import (
    any_scans,
    asynchronous_scans,
    scans_in_layouts,
    scans_of_one_rank,
    scans_on_several_nodes,
    scans_without_gathering,
)
from verify.buffer.group import schedule_check
from verify.buffer.observation import Observe, observe_without_group, why_nothing_is_shared
from verify.buffer.pictures import collectives_pictures, shows
from verify.engine.check import THREADS
from verify.target.naming import Target
from verify.tensors.describe import describe_tensor
from verify.video.detector import DETECTIONS, OBJECT_IDS
from verify.video.scan import Scan
from verify.video.scripting import script_of


@schedule_check(asynchronous_scans, launchers=(THREADS,), why_not_applicable=why_nothing_is_shared)
def test_waits_for_handles(case: Scan, observe: Observe, target: Target) -> bool:
    """Results are read only after every handle they come from has been waited on.

    On one machine a gather is often complete by the time its result is read, and a missing ``wait()`` is not seen;
    under load, or over a network, the result is whatever the memory held. Here results are NaN until the wait. An
    input changed while its gather is under way is the same race from the other side.
    """
    seen = observe(case)
    for rank, call in all_calls(seen):
        named = [(key, value) for key, value in call.answer.items() if isinstance(value, torch.Tensor)]
        for tensor, values in named:
            low = values.dtype in (torch.int32, torch.int64) and (values == torch.iinfo(values.dtype).min).any()
            unwaited = [collective for collective in rank.collectives if not collective.waited]
            # Of what no buffer promises, NaN may be the value.
            promised = tensor in DETECTIONS or tensor == OBJECT_IDS or "_backbone_" in tensor
            if (promised or unwaited) and (low or (values.is_floating_point() and torch.isnan(values).any())):
                raise violation_at(
                    rank,
                    call,
                    f"{tensor} was read before the handle of its gather was waited on",
                    tensor=tensor,
                    expected="wait() on the handle of every gather that the answer comes from",
                    got=describe_tensor(values)
                    + (f"; never waited on: {unwaited[0].describe()}" if unwaited else "; waited on only later"),
                    case=case,
                )
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if collective.input_changed:
                raise violation_by_collective(
                    collective,
                    rank.rank,
                    f"the input of collective {number}, {collective.describe()}, was changed in place under way",
                    expected="an input left alone until its handle is waited on",
                    got="a write between issue and wait",
                )
    return any(rank.collectives for rank in seen.ranks)


@schedule_check(scans_in_layouts)
def test_contiguous_collectives(case: Scan, observe: Observe, target: Target) -> bool:
    """Detector outputs in any memory layout arrive intact, and what reaches a collective is contiguous.

    NCCL reads memory in its order, not by strides: a transposed or expanded tensor that reaches it as it is arrives
    scrambled, without an error.
    """
    seen = observe(case)
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if not collective.contiguous:
                raise violation_by_collective(
                    collective,
                    rank.rank,
                    f"collective {number}, {collective.describe()}, was given memory that is not contiguous",
                    expected="contiguous() before the collective",
                    got=f"outputs of the detector laid out as {case.layout}",
                )
    assert_own_detections(seen)
    return bool(case.batch) or any(rank.collectives for rank in seen.ranks)


@schedule_check(any_scans, why_not_applicable=why_nothing_is_shared, pictures=collectives_pictures, shows=shows)
def test_same_collectives(case: Scan, observe: Observe, target: Target) -> bool:
    """All ranks issue the same sequence of collectives: operation, shapes, types.

    Collectives meet by their order. A rank that issues one more, one less or another one is paired with something
    else, and the job hangs or computes with the wrong tensor.
    """
    seen = observe(case)
    sequences = [
        [collective for collective in rank.collectives if collective.operation not in ("send", "recv")]
        for rank in seen.ranks
    ]
    for rank, sequence in zip(seen.ranks[1:], sequences[1:], strict=True):
        own = [collective.describe() for collective in sequence]
        first = [collective.describe() for collective in sequences[0]]
        if own == first:
            continue
        at = next((i for i, pair in enumerate(zip(own, first, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(own), len(first)) if at is None else at
        issued = sequence[at] if at < len(sequence) else sequences[0][at]
        raise violation_by_collective(
            issued,
            rank.rank,
            f"collective {at} of rank {rank.rank} is not that of rank 0",
            expected=f"{first[at] if at < len(first) else 'no further collective'} ({len(first)} on rank 0)",
            got=f"{own[at] if at < len(own) else 'no further collective'} ({len(own)} on rank {rank.rank})",
        )
    return any(rank.collectives for rank in seen.ranks)


@schedule_check(lambda target, sizes: scans_on_several_nodes(target, sizes), launchers=(THREADS,))
def test_global_rank(case: Scan, observe: Observe, target: Target) -> None:
    """The global rank is used where the local one differs: on a job of several nodes.

    With LOCAL_RANK in its place the ranks of the second node detect the frames of the first again, and theirs are
    detected by nobody; on one node nothing is seen of it.
    """
    seen = observe(case)
    assert_own_detections(seen)
    if case.batch:
        return  # every rank detects all frames
    for rank in seen.ranks:
        share = set(schedule.share(case.steps(), rank.rank, case.world_size, case.frames))
        for call in rank.calls:
            for detected in call.detected:
                if detected.frame not in share:
                    raise violation_at(
                        rank,
                        call,
                        f"the rank detects frame {detected.frame}, which is not in its share",
                        expected="frames " + frame_set(frozenset(share)),
                        got=f"frame {detected.frame}; local rank {rank.rank % (case.ranks_per_node or 1)}",
                        case=case,
                    )


@schedule_check(scans_without_gathering, why_not_applicable=why_nothing_is_shared)
def test_gathering_off(case: Scan, observe: Observe, target: Target) -> bool:
    """With ``gather_backbone_out=False`` no rank sends tracker features to the others.

    They are the largest tensors of a frame by far; a caller that turns them off has no use for them.
    """
    shapes = {tuple(values.shape) for values in script_of(case).features(0, 0).values()}
    seen = observe(case)
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if shapes.intersection(collective.shapes):
                raise violation_by_collective(
                    collective,
                    rank.rank,
                    f"collective {number} sends tracker features, which gathering was turned off for",
                    expected="no features: gather_backbone_out=False",
                    got=collective.describe(),
                )
    return any(rank.collectives for rank in seen.ranks)


@schedule_check(scans_of_one_rank, launchers=(THREADS,), observation=observe_without_group)
def test_single_rank_without_group(case: Scan, observe: Observe, target: Target) -> None:
    """On a single rank the buffer answers where no process group was made.

    sam3's own predictor makes none on one GPU: a collective fails there, though in a group of one it goes unnoticed.
    """
    assert_own_detections(observe(case))
