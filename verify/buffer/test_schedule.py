"""The buffer's bookkeeping, with a scripted detector whose every value tells what it is the output of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reference.oracle import schedule
from verify.buffer.agreement import (
    all_calls,
    assert_inside_clip,
    assert_own_detections,
    assert_same_tensor,
    chunk_numbers,
    frame_set,
    resident_frames,
    violation_at,
)
from verify.buffer.case import full_scans, long_scans, only_frames, scans_perhaps_with_nms, scans_without_nms
from verify.buffer.group import schedule_check
from verify.buffer.observation import Observe, Seen
from verify.buffer.pictures import held_for_long, held_pictures, scan_pictures, shows
from verify.engine.check import THREADS
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.video.detector import DETECTIONS, is_batched
from verify.video.scan import Scan


@schedule_check(only_frames, launchers=(THREADS,))
def test_answers_at_all(case: Scan, observe: Observe, target: Target) -> None:
    """The buffer answers for the only frame of a clip, on one rank, with detections.

    A buffer that fails on this, or does not come to an end, fails on everything: no other check could tell anything.
    """
    for rank, call in all_calls(observe(case)):
        if not any(key in call.answer for key in DETECTIONS):
            keys = ", ".join(map(str, call.answer)) or "nothing"
            raise violation_at(
                rank, call, "the answer has no detections", expected=", ".join(DETECTIONS), got=keys, case=case
            )


@schedule_check(scans_without_nms, draws="scans without NMS", pictures=scan_pictures, shows=shows)
def test_coverage(case: Scan, observe: Observe, target: Target) -> None:
    """Every visited frame's answer is that frame's own detection, on every rank; nothing outside the clip is touched.

    A frame answered with another frame's detections puts boxes and masks where the objects were, or will be; on a
    single rank, it also makes ranks disagree, and the tracker that runs on all of them diverges.
    """
    seen = observe(case)
    assert_own_detections(seen)
    assert_inside_clip(seen)


@schedule_check(scans_perhaps_with_nms, draws="scans perhaps with NMS")
def test_share_of_work(case: Scan, observe: Observe, target: Target) -> None:
    """Rank r of a chunk that starts at b detects frame b + r, and no frame is detected twice in a scan.

    Under NMS, too. Ranks whose chunk runs past the clip's end may repeat its last frame or idle. In batches every rank
    detects all frames of the chunks that it visits. Work done twice, or by one rank for all, costs the speed for which
    several GPUs or batches are used.
    """
    _assert_share_of_work(observe(case))


def _assert_share_of_work(seen: Seen) -> None:
    case = seen.case
    if case.batch:
        _assert_detected_once(seen)
        return
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
        raise violation_at(
            rank,
            call,
            f"the rank detects other frames than its share of the {len(begins)} chunks",
            expected="frames " + _listed(promised, at),
            got="frames " + _listed(frames, at),
            case=case,
        )


def _listed(frames: Sequence[int], at: int) -> str:
    """Frames in words; of many, those around place ``at``."""
    first, last = max(0, at - 12), at + 12
    listed = ", ".join(map(str, frames[first:last])) or "none"
    return f"{'…, ' if first else ''}{listed}{', …' if last < len(frames) else ''}"


def _assert_detected_once(seen: Seen) -> None:
    """In batches every rank detects each frame of the chunks that it visits once at most, and none of others."""
    case = seen.case
    wanted = {frame for step in case.steps() for frame in step.chunk}
    for rank in seen.ranks:
        before: set[int] = set()
        for call in rank.calls:
            frames = [detected.frame for detected in call.detected]
            again = [frame for number, frame in enumerate(frames) if frame in before or frame in frames[:number]]
            others = [frame for frame in frames if frame not in wanted]
            before.update(frames)
            if again or others:
                raise violation_at(
                    rank,
                    call,
                    f"frame {again[0]} is detected a second time in the scan"
                    if again
                    else f"frame {others[0]} is detected, which is in no chunk of {case.batch} that the scan visits",
                    expected="each of frames " + frame_set(frozenset(wanted)) + " once",
                    got="frames " + _listed(frames, 0),
                    case=case,
                )


@schedule_check(full_scans, draws="full scans", pictures=held_pictures, shows=held_for_long)
def test_residency(case: Scan, observe: Observe, target: Target) -> None:
    """After a call of a sequential scan the buffer holds at most two chunks, and one after the last call.

    Every frame kept too long holds its masks and tracker features in the memory of every GPU; over a long video that
    ends in out of memory. So does what is kept of it elsewhere: on the model, or under another key.
    """
    _assert_residency(observe(case))


def _assert_residency(seen: Seen) -> None:
    case = seen.case
    for rank, call in all_calls(seen):
        allowed = 1 if call.number == len(case.calls()) - 1 else 2
        resident = resident_frames(rank, call, case)
        if len(chunk_numbers(resident, case)) > allowed:
            raise violation_at(
                rank,
                call,
                f"the buffer holds more than {allowed} chunk{'s' * (allowed > 1)} of {case.chunk_size} after the call",
                expected="frames " + frame_set(case.steps()[call.number].resident),
                got="frames " + frame_set(resident),
                case=case,
            )
        for held, what in ((call.held, "their answers are"), (call.output_held, "the detector's output for them is")):
            if held:
                raise Violation(
                    f"frames {frame_set(held)} left the buffer, and {what} kept alive elsewhere",
                    rank=rank.rank,
                    call=call.number,
                    frame=min(held),
                    expected="tensors that nobody holds once their frames' chunk has left the buffer",
                    got=f"tensors of {len(held)} frames alive after the scan",
                )


@schedule_check(long_scans, launchers=(THREADS,), cost=25, draws="long scans", pictures=None)
def test_long_video(case: Scan, observe: Observe, target: Target) -> None:
    """A video of more than 256 frames is scanned as a short one: right answers, no work done twice, two chunks held.

    Videos are long, and other checks' clips are short. What breaks past a number of frames (numbers compared as
    objects, which small ones share; a list that is cut; calls that call themselves) is seen here.
    """
    seen = observe(case)
    assert_own_detections(seen)
    assert_inside_clip(seen)
    _assert_share_of_work(seen)
    if not case.batch:  # of so many frames, what a batched buffer holds does not tell which they are
        _assert_residency(seen)


@schedule_check(scans_perhaps_with_nms, draws="scans perhaps with NMS", pictures=held_pictures)
def test_eviction_order(case: Scan, observe: Observe, target: Target) -> None:
    """The chunk just left goes, whole, when the scan enters the next one, and never a frame not yet delivered.

    In reverse, the same mirrored. A frame evicted before its turn is detected again, or answered with a KeyError
    on some ranks while the others wait for them; one evicted late holds memory.
    """
    steps = case.steps()
    for rank, call in all_calls(observe(case)):
        step, resident = steps[call.number], resident_frames(rank, call, case)
        due = {later.frame for later in steps[call.number + 1 :]}
        if case.batch:  # a batch may be detected in parts: what counts is what has been detected, and is still due
            detected = {found.frame for earlier in rank.calls[: call.number + 1] for found in earlier.detected}
            lost = frozenset(step.chunk) & detected & due - resident
        else:
            lost = frozenset(step.chunk) & {other.frame for other in steps} - resident
        waiting = due & lost
        left = {frame for earlier in steps[: call.number] for frame in earlier.chunk} - set(step.chunk)
        stale = resident & left
        if lost or stale:
            raise violation_at(
                rank,
                call,
                (
                    f"frames {frame_set(frozenset(waiting))} left the buffer before they were delivered"
                    if waiting
                    else f"frames {frame_set(lost)} of the chunk being scanned left the buffer before the scan did"
                )
                if lost
                else f"frames {frame_set(frozenset(stale))} of a chunk already left are still in the buffer",
                expected="frames " + frame_set(step.resident),
                got="frames " + frame_set(resident),
                case=case,
            )


def _why_no_prefetch(target: Target) -> str | None:
    if is_batched(target):
        return "a batched buffer detects a chunk when it is asked for, and promises nothing ahead of need"
    return None


@schedule_check(scans_perhaps_with_nms, draws="scans perhaps with NMS", why_not_applicable=_why_no_prefetch)
def test_prefetch(case: Scan, observe: Observe, target: Target) -> None:
    """Once a chunk's first frame is delivered, the next chunk in the direction of the scan is in the buffer.

    And none past the clip's ends. Without it the gather's transfer does not overlap with detection; a chunk built
    ahead in the wrong direction is work thrown away.
    """
    steps = case.steps()
    for rank, call in all_calls(observe(case)):
        step, resident = steps[call.number], resident_frames(rank, call, case)
        missing = set(step.prefetched) - resident
        passed = {frame for earlier in steps[: call.number + 1] for frame in earlier.chunk}
        beyond = resident - passed - set(step.prefetched)
        if missing or beyond:
            raise violation_at(
                rank,
                call,
                f"frames {frame_set(frozenset(missing))} of the next chunk are not in the buffer"
                if missing
                else f"frames {frame_set(frozenset(beyond))} are in the buffer, beyond the next chunk",
                expected="frames " + frame_set(step.resident),
                got="frames " + frame_set(resident),
                case=case,
            )


@schedule_check(full_scans, draws="full scans")
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


@schedule_check(scans_without_nms, draws="scans without NMS", launchers=(THREADS,))
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
