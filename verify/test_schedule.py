"""The buffer's bookkeeping, with a scripted detector whose every value tells what it is the output of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from hypothesis import strategies as st

from fixtures.ranks import Collective
from fixtures.scripted import LAYOUTS
from reference import schedule
from reference.detection import Suppression
from verify.agreement import (
    assert_features,
    assert_own_detections,
    assert_position_encoding,
    assert_same_tensor,
    brief,
    frame_set,
    frames_around,
    ranks_own_first,
)
from verify.check import HAZARD, THREADS, check
from verify.finding import Violation, call_in
from verify.observation import (
    DETECTIONS,
    FEATURE_FLAGS,
    Call,
    Observe,
    RankSeen,
    Seen,
    expected_answer,
    features_of,
    kept_by_nms,
    observe_scripted,
    script_of,
)
from verify.scan import Scan, scan_from_json, scans, suppressions, visit_lists
from verify.subject import ANY_OTHER, buffer_options, lacks_scripted_buffer
from verify.target import Target

schedule_check = partial(
    check, "schedule", observation=observe_scripted, from_json=scan_from_json, lacks=lacks_scripted_buffer
)

#: Types that a gather may be tempted to save memory with.
_SHORT = (torch.bfloat16, torch.float16)

WorldSizes = st.SearchStrategy[int]
Scans = st.SearchStrategy[Scan]


def _plain(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(world_sizes, suppression=st.none())


def _whole(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(world_sizes, suppression=st.none(), from_end=True)


def _several_ranks(world_sizes: WorldSizes) -> WorldSizes:
    return world_sizes.filter(lambda size: size > 1)


def _calls(seen: Seen) -> Iterable[tuple[RankSeen, Call]]:
    return ((rank, call) for rank in seen.ranks for call in rank.calls)


def _chunks(frames: Iterable[int], world_size: int) -> set[int]:
    return {frame // world_size for frame in frames}


def _resident(rank: RankSeen, call: Call) -> frozenset[int]:
    if call.resident is None:
        raise Violation(
            "the buffer holds no frame under its number, so what it keeps cannot be told",
            rank=rank.rank,
            call=call.number,
            frame=call.visit.frame,
            expected="integer keys, one a frame",
        )
    return call.resident


@schedule_check(_plain)
def test_full_precision(case: Scan, observe: Observe, target: Target) -> None:
    """Logits, boxes and masks arrive in the detector's own type, with every bit.

    Scores and boxes that pass through a shorter type on their way between ranks differ from those of one GPU: scores
    near a threshold flip, and the tracker is fed other boxes than the detector found.
    """
    seen = observe(case)
    for rank, call in _calls(seen):
        right = expected_answer(case, call.visit, schedule.detecting_rank(call.visit.frame, case.world_size))
        for tensor in DETECTIONS:
            got = call.answer.get(tensor)
            if not isinstance(got, torch.Tensor) or got.shape != right[tensor].shape:
                continue  # a missing tensor is test_coverage's to report
            if got.dtype != right[tensor].dtype:
                raise Violation(
                    f"{tensor} arrives as {got.dtype}, the detector computes {right[tensor].dtype}",
                    rank=rank.rank,
                    call=call.number,
                    frame=call.visit.frame,
                    tensor=tensor,
                    expected=brief(right[tensor]),
                    got=brief(got),
                )
            shorter = [str(short) for short in _SHORT if torch.equal(got, right[tensor].to(short).to(got.dtype))]
            if shorter:
                message = f"{tensor} was rounded to {' or '.join(shorter)} on its way"
                assert_same_tensor(tensor, right[tensor], got, message, rank, call, case)


@schedule_check(_plain)
def test_coverage(case: Scan, observe: Observe, target: Target) -> None:
    """Every visited frame's answer is that frame's own detection, on every rank; nothing outside the clip is touched.

    A frame answered with another frame's detections puts boxes and masks where the objects were, or will be; on a
    single rank, it also makes ranks disagree, and the tracker that runs on all of them diverges.
    """
    seen = observe(case)
    assert_own_detections(seen)
    for rank, call in _calls(seen):
        outside = {frame for frame in call.resident or () if not 0 <= frame < case.frames}
        if outside:
            raise Violation(
                f"the buffer holds a frame outside the clip's {case.frames}",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected=f"frames 0 to {case.frames - 1}",
                got=frame_set(frozenset(outside)),
                table=frames_around(case, rank, call.number),
            )


@schedule_check(_plain)
def test_share_of_work(case: Scan, observe: Observe, target: Target) -> None:
    """Rank r of a chunk that starts at b detects frame b + r, and no frame is detected twice in a scan.

    Ranks whose chunk runs past the clip's end may repeat its last frame or idle. Work done twice, or by one rank for
    all, costs the speed for which several GPUs are used.
    """
    seen = observe(case)
    steps = case.steps()
    begins = [built[0] for step in steps for built in step.built]
    for rank in seen.ranks:
        promised = schedule.share(steps, rank.rank, case.world_size, case.frames)
        padding = [schedule.is_padding(begin, rank.rank, case.frames) for begin in begins]
        made = [(call, detected.frame) for call in rank.calls for detected in call.detected]
        frames = [frame for _, frame in made]
        own = [frame for frame, idle in zip(promised, padding, strict=True) if not idle]
        if frames == own:
            continue
        if len(frames) == len(promised) and all(
            idle or frame == right for frame, right, idle in zip(frames, promised, padding, strict=True)
        ):
            continue
        wrong = next((i for i, pair in enumerate(zip(promised, frames, strict=False)) if pair[0] != pair[1]), None)
        at = wrong if wrong is not None else min(len(promised), len(frames))
        call = made[at][0] if at < len(made) else rank.calls[-1]
        raise Violation(
            f"the rank detects other frames than its share of the {len(begins)} chunks",
            rank=rank.rank,
            call=call.number,
            frame=call.visit.frame,
            expected="frames " + (", ".join(map(str, promised)) or "none"),
            got="frames " + (", ".join(map(str, frames)) or "none"),
            table=frames_around(case, rank, call.number),
        )


@schedule_check(_whole)
def test_residency(case: Scan, observe: Observe, target: Target) -> None:
    """After a call of a sequential scan the buffer holds at most two chunks, and one after the last call.

    Every frame kept too long holds its masks and tracker features in the memory of every GPU; over a long video that
    ends in out of memory.
    """
    for rank, call in _calls(observe(case)):
        allowed = 1 if call.number == len(case.calls()) - 1 else 2
        resident = _resident(rank, call)
        if len(_chunks(resident, case.world_size)) > allowed:
            raise Violation(
                f"the buffer holds more than {allowed} chunk{'s' * (allowed > 1)} of {case.world_size} after the call",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected="frames " + frame_set(case.steps()[call.number].resident),
                got="frames " + frame_set(resident),
                table=frames_around(case, rank, call.number),
            )
        if call.held:
            raise Violation(
                f"frames {frame_set(call.held)} left the buffer, and their answers are kept alive elsewhere",
                rank=rank.rank,
                call=call.number,
                frame=min(call.held),
                expected="answers that nobody holds once their frame has left the buffer",
                got=f"answers of {len(call.held)} frames alive after the scan",
            )


@schedule_check(_plain)
def test_eviction_order(case: Scan, observe: Observe, target: Target) -> None:
    """The chunk just left goes, whole, when the scan enters the next one, and never a frame not yet delivered.

    In reverse, the same mirrored. A frame evicted before its turn is detected again, or answered with a KeyError
    on some ranks while the others wait for them; one evicted late holds memory.
    """
    steps = case.steps()
    for rank, call in _calls(observe(case)):
        step, resident = steps[call.number], _resident(rank, call)
        scanned = {other.frame for other in steps}
        lost = frozenset(step.chunk) & scanned - resident
        waiting = {later.frame for later in steps[call.number + 1 :]} & lost
        left = {frame for earlier in steps[: call.number] for frame in earlier.chunk} - set(step.chunk)
        stale = resident & left
        if lost or stale:
            raise Violation(
                (
                    f"frames {frame_set(frozenset(waiting))} left the buffer before they were delivered"
                    if waiting
                    else f"frames {frame_set(lost)} of the chunk being scanned left the buffer before the scan did"
                )
                if lost
                else f"frames {frame_set(frozenset(stale))} of a chunk already left are still in the buffer",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected="frames " + frame_set(step.resident),
                got="frames " + frame_set(resident),
                table=frames_around(case, rank, call.number),
            )


@schedule_check(_plain)
def test_prefetch(case: Scan, observe: Observe, target: Target) -> None:
    """Once a chunk's first frame is delivered, the next chunk in the direction of the scan is in the buffer.

    And none past the clip's ends. Without it the gather's transfer does not overlap with detection; a chunk built
    ahead in the wrong direction is work thrown away.
    """
    steps = case.steps()
    for rank, call in _calls(observe(case)):
        step, resident = steps[call.number], _resident(rank, call)
        missing = set(step.prefetched) - resident
        passed = {frame for earlier in steps[: call.number + 1] for frame in earlier.chunk}
        beyond = resident - passed - set(step.prefetched)
        if missing or beyond:
            raise Violation(
                f"frames {frame_set(frozenset(missing))} of the next chunk are not in the buffer"
                if missing
                else f"frames {frame_set(frozenset(beyond))} are in the buffer, beyond the next chunk",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected="frames " + frame_set(step.resident),
                got="frames " + frame_set(resident),
                table=frames_around(case, rank, call.number),
            )


@schedule_check(_whole)
def test_reverse_equals_forward(case: Scan, observe: Observe, target: Target) -> None:
    """A scan in reverse answers each frame as the scan forward does.

    Tracking in reverse follows an object back from where it was prompted; it needs the same detections.
    """
    there = observe(replace(case, reverse=False, start=0))
    back = observe(replace(case, reverse=True, start=case.frames - 1))
    for forward, reverse in zip(there.ranks, back.ranks, strict=True):
        answers = {call.visit.frame: call for call in forward.calls}
        for call in reverse.calls:
            for tensor in DETECTIONS:
                right, got = answers[call.visit.frame].answer.get(tensor), call.answer.get(tensor)
                if isinstance(right, torch.Tensor):
                    message = f"frame {call.visit.frame} is answered otherwise in reverse than forward"
                    assert_same_tensor(tensor, right, got, message, reverse, call, case)


@schedule_check(_plain, carriers=(THREADS,))
def test_world_size_independence(case: Scan, observe: Observe, target: Target) -> bool:
    """The answers do not depend on the world size.

    A model evaluated on eight GPUs and run on one must find the same objects. The scripted boxes tell which rank
    computed them, so logits are compared here, and boxes through ``test_coverage``.
    """
    if case.world_size == 1:
        return False
    alone = observe(replace(case, world_size=1, asynchronous=False)).ranks[0]
    for rank in observe(case).ranks:
        for call, right in zip(rank.calls, alone.calls, strict=True):
            got, logits = call.answer.get("pred_logits"), right.answer.get("pred_logits")
            if isinstance(logits, torch.Tensor):
                message = f"frame {call.visit.frame} is answered otherwise by {case.world_size} ranks than by one"
                assert_same_tensor("pred_logits", logits, got, message, rank, call, case)
    return True


def _lacks_nms(target: Target) -> str | None:
    lacks = lacks_scripted_buffer(target)
    if lacks is None and "run_nms" not in buffer_options(target):
        return "the buffer has no argument run_nms"
    return lacks


def _violation_by(collective: Collective, rank: int, message: str, expected: str, got: str) -> Violation:
    """A violation by a collective of ``rank``, which says in which call it was issued."""
    call, frame = call_in(collective.during)
    return Violation(message, rank=rank, call=call, frame=frame, expected=expected, got=got)


def _perhaps_nms(target: Target) -> st.SearchStrategy[Suppression | None]:
    return st.none() if _lacks_nms(target) else st.none() | suppressions()


def _asynchronous(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(_several_ranks(world_sizes), suppression=_perhaps_nms(target), asynchronous=True)


@schedule_check(_asynchronous, carriers=(THREADS,))
def test_waits_for_handles(case: Scan, observe: Observe, target: Target) -> bool:
    """Results are read only after every handle they come from has been waited on.

    On one machine a gather is often complete by the time its result is read, and a missing ``wait()`` is not seen;
    under load, or over a network, the result is whatever the memory held. Here results are NaN until the wait. An
    input changed while its gather is under way is the same race from the other side.
    """
    seen = observe(case)
    for rank, call in _calls(seen):
        named = [(key, value) for key, value in call.answer.items() if isinstance(value, torch.Tensor)]
        for tensor, values in named:
            low = values.dtype in (torch.int32, torch.int64) and (values == torch.iinfo(values.dtype).min).any()
            if low or (values.is_floating_point() and torch.isnan(values).any()):
                unwaited = [collective for collective in rank.collectives if not collective.waited]
                raise Violation(
                    f"{tensor} was read before the handle of its gather was waited on",
                    rank=rank.rank,
                    call=call.number,
                    frame=call.visit.frame,
                    tensor=tensor,
                    expected="wait() on the handle of every gather that the answer comes from",
                    got=brief(values)
                    + (f"; never waited on: {unwaited[0].describe()}" if unwaited else "; waited on only later"),
                    table=frames_around(case, rank, call.number),
                )
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if collective.input_changed:
                raise _violation_by(
                    collective,
                    rank.rank,
                    f"the input of collective {number}, {collective.describe()}, was changed in place under way",
                    expected="an input left alone until its handle is waited on",
                    got="a write between issue and wait",
                )
    return any(rank.collectives for rank in seen.ranks)


def _laid_out(target: Target, world_sizes: WorldSizes) -> Scans:
    layouts = tuple(layout for layout in LAYOUTS if layout != "contiguous")
    return scans(_several_ranks(world_sizes), suppression=st.none(), layouts=layouts)


@schedule_check(_laid_out)
def test_contiguous_collectives(case: Scan, observe: Observe, target: Target) -> bool:
    """Detector outputs in any memory layout arrive intact, and what reaches a collective is contiguous.

    NCCL reads memory in its order, not by strides: a transposed or expanded tensor that reaches it as it is arrives
    scrambled, without an error.
    """
    seen = observe(case)
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if not collective.contiguous:
                raise _violation_by(
                    collective,
                    rank.rank,
                    f"collective {number}, {collective.describe()}, was given memory that is not contiguous",
                    expected="contiguous() before the collective",
                    got=f"outputs of the detector laid out as {case.layout}",
                )
    assert_own_detections(seen)
    return any(rank.collectives for rank in seen.ranks)


def _any_scan(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(_several_ranks(world_sizes), suppression=_perhaps_nms(target))


@schedule_check(_any_scan)
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
        here = [collective.describe() for collective in sequence]
        there = [collective.describe() for collective in sequences[0]]
        if here == there:
            continue
        at = next((i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(here), len(there)) if at is None else at
        issued = sequence[at] if at < len(sequence) else sequences[0][at]
        raise _violation_by(
            issued,
            rank.rank,
            f"collective {at} of rank {rank.rank} is not that of rank 0",
            expected=f"{there[at] if at < len(there) else 'no further collective'} ({len(there)} on rank 0)",
            got=f"{here[at] if at < len(here) else 'no further collective'} ({len(here)} on rank {rank.rank})",
        )
    return any(rank.collectives for rank in seen.ranks)


@st.composite
def _several_nodes(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(scans(_several_ranks(world_sizes), suppression=st.none(), layouts=("contiguous",)))
    return replace(case, ranks_per_node=draw(st.integers(1, case.world_size - 1)))


@schedule_check(lambda target, sizes: _several_nodes(target, sizes), carriers=(THREADS,))
def test_global_rank(case: Scan, observe: Observe, target: Target) -> None:
    """The global rank is used where the local one differs: on a job of several nodes.

    With LOCAL_RANK in its place the ranks of the second node detect the frames of the first again, and theirs are
    detected by nobody; on one node nothing is seen of it.
    """
    seen = observe(case)
    assert_own_detections(seen)
    for rank in seen.ranks:
        share = set(schedule.share(case.steps(), rank.rank, case.world_size, case.frames))
        for call in rank.calls:
            for detected in call.detected:
                if detected.frame not in share:
                    raise Violation(
                        f"the rank detects frame {detected.frame}, which is not in its share",
                        rank=rank.rank,
                        call=call.number,
                        frame=call.visit.frame,
                        expected="frames " + frame_set(frozenset(share)),
                        got=f"frame {detected.frame}; local rank {rank.rank % (case.ranks_per_node or 1)}",
                        table=frames_around(case, rank, call.number),
                    )


def _with_nms(target: Target, world_sizes: WorldSizes) -> Scans:
    overlaps = suppressions("nms_use_iom" in buffer_options(target))
    return scans(world_sizes, max_frames=20, suppression=overlaps)


@schedule_check(_with_nms, lacks=_lacks_nms)
def test_nms_suppression(case: Scan, observe: Observe, target: Target) -> None:
    """NMS suppresses what a plain single-process mask NMS does: on every frame, for every prompt, at both thresholds.

    Also on frames detected ahead of need. Survivors keep their logits, boxes and masks bit for bit. A frame that
    escapes NMS, or meets it with other settings, gives the tracker one object twice; one suppressed too much loses it.
    """
    assert case.suppression is not None
    seen = observe(case)
    for rank, call in _calls(seen):
        plain = expected_answer(replace(case, suppression=None), call.visit, rank.rank)
        logits = plain["pred_logits"]
        kept = kept_by_nms(script_of(case), case.suppression, call.visit.frame)
        got = call.answer.get("pred_logits")
        if not isinstance(got, torch.Tensor) or got.shape != logits.shape:
            continue  # a missing tensor is test_coverage's to report
        survives = got.squeeze(-1) > -1e3
        if not torch.equal(survives, kept):
            prompt, query = (int(number) for number in (survives != kept).nonzero()[0])
            raise Violation(
                f"NMS {'keeps' if survives[prompt, query] else 'suppresses'} query {query} of prompt {prompt}, "
                f"which a single-process NMS {'suppresses' if survives[prompt, query] else 'keeps'}",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                tensor="pred_logits",
                expected=f"kept, a row a prompt: {kept.int().tolist()}",
                got=f"kept, a row a prompt: {survives.int().tolist()}",
                table=frames_around(case, rank, call.number),
            )
        if not torch.equal(got[kept], logits[kept]):
            assert_same_tensor(
                "pred_logits", logits[kept], got[kept], "NMS changed the logits of detections it keeps", rank, call
            )
    assert_own_detections(seen, [tensor for tensor in DETECTIONS if tensor != "pred_logits"])


def _with_tracker(target: Target, world_sizes: WorldSizes) -> Scans:
    return st.builds(
        replace,
        scans(world_sizes, suppression=_perhaps_nms(target), gather=True, tracker=True, features=True),
        gather=st.sampled_from((True, None)),  # the default follows from the backbone, which has a tracker neck
    )


@schedule_check(_with_tracker)
def test_tracker_features(case: Scan, observe: Observe, target: Target) -> None:
    """With gathering on, an answer holds the frame's own tracker features: three levels in order, and their encoding.

    They are exact up to bfloat16's rounding. The tracker propagates masks with them: those of another frame, or
    levels exchanged, make masks drift without any error.
    """
    script = script_of(case)
    for rank, call in _calls(observe(case)):
        visit = call.visit
        allowed = [
            script.features(visit.frame, computing, visit.geometric, visit.text)
            for computing in ranks_own_first(case, call)
        ]
        assert_features(call, rank, allowed, case)
        assert_position_encoding(call, rank, script.position_encoding())


def _lacks_request(target: Target) -> str | None:
    lacks = lacks_scripted_buffer(target)
    if lacks is None and not buffer_options(target).intersection(FEATURE_FLAGS):
        return f"the buffer has no argument {FEATURE_FLAGS[0]}"
    return lacks


@schedule_check(_with_tracker, lacks=_lacks_request)
def test_features_on_request(case: Scan, observe: Observe, target: Target) -> None:
    """Tracker features are in the answer when the call asks for them, and only then.

    The argument ``return_sam2_backbone_feats`` exists so that a caller without a tracker does not hold three feature
    maps a frame. Where it does nothing, every caller holds them.
    """
    for rank, call in _calls(observe(replace(case, features=False))):
        if unasked := sorted(features_of(call.answer)):
            raise Violation(
                "the answer holds tracker features that the call did not ask for",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                tensor=next(key for key in call.answer if key.endswith(unasked[0])),
                expected="none: return_sam2_backbone_feats=False",
                got=", ".join(key for key in call.answer if features_of({key: None})),
            )
    for rank, call in _calls(observe(case)):
        if not features_of(call.answer):
            raise Violation(
                "the answer lacks the tracker features that the call asked for",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected="three levels and their position encoding",
                got="keys " + ", ".join(sorted(call.answer)),
            )


def _without_gathering(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(_several_ranks(world_sizes), suppression=st.none(), gather=False, tracker=True, features=True)


@schedule_check(_without_gathering)
def test_gathering_off(case: Scan, observe: Observe, target: Target) -> bool:
    """With ``gather_backbone_out=False`` no rank sends tracker features to the others.

    They are the largest tensors of a frame by far; a caller that turns them off has no use for them.
    """
    shapes = {tuple(values.shape) for values in script_of(case).features(0, 0).values()}
    seen = observe(case)
    for rank in seen.ranks:
        for number, collective in enumerate(rank.collectives):
            if shapes.intersection(collective.shapes):
                raise _violation_by(
                    collective,
                    rank.rank,
                    f"collective {number} sends tracker features, which gathering was turned off for",
                    expected="no features: gather_backbone_out=False",
                    got=collective.describe(),
                )
    return any(rank.collectives for rank in seen.ranks)


@st.composite
def _any_order(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    if draw(st.booleans()):
        return draw(visit_lists(world_sizes))
    case = draw(scans(world_sizes, max_frames=20, suppression=st.none(), layouts=("contiguous",), gather=False))
    start, reverse = draw(st.integers(0, case.frames - 1)), draw(st.booleans())
    again = replace(case, start=start, reverse=reverse)
    return replace(case, visits=case.calls() + again.calls())


@schedule_check(lambda target, sizes: _any_order(target, sizes))
def test_any_order_answers(case: Scan, observe: Observe, target: Target) -> None:
    """Frames visited out of order, or scanned again with the same buffer, are answered with their own detections.

    A user who jumps along the video, or tracks forward and then in reverse, does both.
    """
    assert_own_detections(observe(case))


@schedule_check(lambda target, sizes: _any_order(target, sizes), kind=HAZARD)
def test_any_order_residency(case: Scan, observe: Observe, target: Target) -> None:
    """Frames visited out of order, or scanned again, leave no more than two chunks in the buffer.

    Today's callers scan in order and start each scan with a new buffer. One that jumps along the video leaves a chunk
    behind at each jump, in the memory of every GPU.
    """
    for rank, call in _calls(observe(case)):
        resident = _resident(rank, call)
        if len(_chunks(resident, case.world_size)) > 2:
            raise Violation(
                f"the buffer holds more than two chunks of {case.world_size} after the call",
                rank=rank.rank,
                call=call.number,
                frame=call.visit.frame,
                expected=f"at most two chunks, that of frame {call.visit.frame} among them",
                got="frames " + frame_set(resident),
                table=frames_around(case, rank, call.number),
            )


@st.composite
def _limited(draw: st.DrawFn, target: Target, world_sizes: WorldSizes, resumed: bool) -> Scan:
    case = draw(
        scans(world_sizes, min_frames=2, max_frames=24, suppression=st.none(), layouts=("contiguous",), gather=False)
    )
    limit = draw(st.integers(1, len(case.calls())))
    first = tuple(replace(visit, limit=limit, limit_from=case.start) for visit in case.calls()[:limit])
    return replace(case, visits=first + case.calls()[limit:] if resumed else first)


def _lacks_limit(target: Target) -> str | None:
    lacks = lacks_scripted_buffer(target)
    if lacks is None and not {"max_frame_num_to_track", ANY_OTHER} & buffer_options(target):
        return "the buffer has no argument max_frame_num_to_track"
    return lacks


@schedule_check(partial(_limited, resumed=False), lacks=_lacks_limit)
def test_limited_scan(case: Scan, observe: Observe, target: Target) -> None:
    """A scan under ``max_frame_num_to_track`` answers every frame that it visits with the frame's own detection.

    sam3's video predictor passes the limit with every call. A limit cuts a chunk short, and the ranks behind the cut
    must not put what they have where a frame belongs.
    """
    assert_own_detections(observe(case))


@schedule_check(partial(_limited, resumed=True), lacks=_lacks_limit, kind=HAZARD)
def test_resumed_scan(case: Scan, observe: Observe, target: Target) -> None:
    """A scan that goes on past ``max_frame_num_to_track`` with the same buffer answers rightly.

    If a chunk that the limit cut short is stored as if it were whole, the frames behind the limit are later answered
    with the detection of the last frame before it. Callers that start each scan with a new buffer do not see it.
    """
    assert_own_detections(observe(case))


@st.composite
def _prompt_a_frame(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(
        scans(world_sizes, min_frames=2, max_frames=12, suppression=st.none(), layouts=("contiguous",), gather=False)
    )
    return replace(
        case, visits=tuple(replace(visit, geometric=visit.frame % 15 + 1) for visit in case.calls()), geometric=0
    )


@schedule_check(lambda target, sizes: _prompt_a_frame(target, sizes), kind=HAZARD)
def test_prompt_of_each_frame(case: Scan, observe: Observe, target: Target) -> bool:
    """A geometric prompt that differs from frame to frame reaches each frame's own detection.

    Today's callers give one prompt for a scan. A frame built ahead of need with the prompt of the call that built it
    is answered under a prompt that is a chunk late.
    """
    if len(case.calls()) < 2:
        return False
    assert_own_detections(observe(case))
    return True


@st.composite
def _another_prompt(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(
        scans(world_sizes, max_frames=12, suppression=st.none(), layouts=("contiguous",), gather=False, geometric=0)
    )
    first = draw(st.sampled_from([(0, 1), (2, 0), (1, 2)]))
    second = draw(st.sampled_from([(0, 2), (3, 0), (4, 1)]))
    both = [
        tuple(replace(visit, geometric=geometric, text=text) for visit in case.calls())
        for geometric, text in (first, second)
    ]
    cut = draw(st.integers(1, len(both[0])))
    return replace(case, visits=both[0][:cut] + both[1])


@schedule_check(lambda target, sizes: _another_prompt(target, sizes), kind=HAZARD)
def test_buffer_under_another_prompt(case: Scan, observe: Observe, target: Target) -> None:
    """A buffer handed on to a scan under another prompt does not answer with the detections of the old one.

    Today's callers start a new buffer with a new prompt. One that keeps it gets the objects of the prompt before.
    """
    assert_own_detections(observe(case))


@st.composite
def _two_buffers(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(_another_prompt(target, world_sizes))
    prompts = [(visit.geometric, visit.text) for visit in case.calls()]
    calls = [
        replace(visit, buffer=int(prompt == prompts[-1])) for visit, prompt in zip(case.calls(), prompts, strict=True)
    ]
    return replace(case, visits=tuple(calls))


@schedule_check(lambda target, sizes: _two_buffers(target, sizes))
def test_second_buffer(case: Scan, observe: Observe, target: Target) -> None:
    """A second scan with the same model, another prompt and an empty buffer is answered by detections of its own.

    So callers start each video and each prompt. Detections kept on the model, by frame, would answer the second
    video with the objects of the first.
    """
    assert_own_detections(observe(case))


def _without_tracker(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans(world_sizes, suppression=st.none(), gather=None, tracker=False, features=False)


@schedule_check(_without_tracker)
def test_without_tracker_neck(case: Scan, observe: Observe, target: Target) -> None:
    """A detector without a tracker neck, built with ``gather_backbone_out`` at its default, answers every frame.

    The recipe builds it so (``gather_backbone_out: null``, no instance interactivity). Gathering features that the
    model does not have fails at the first call.
    """
    assert_own_detections(observe(case))
