"""What a buffer owes its caller: what is left out, what is the caller's own, and thresholds to the very value."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from fixtures.synthetic.scripted_detector import Detected
from verify.buffer.agreement import (
    all_calls,
    assert_nms_as_one_process,
    assert_own_detections,
    describe_scripted,
    frame_set,
    identical,
    violation_at,
)
from verify.buffer.callers import ASKED_WITHOUT, RankWatched, changed, observe_changed, observe_unasked, observe_watched
from verify.buffer.case import (
    plain_scans,
    scans_asking_late,
    scans_at_thresholds,
    scans_by_default,
    scans_by_pixels,
    short_scans_with_everything,
    visits_twice,
    why_no_nms,
)
from verify.buffer.group import schedule_check
from verify.buffer.observation import Observe, Seen
from verify.engine.check import HAZARD
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.video.detector import FEATURE_FLAGS, buffer_options, features_of
from verify.video.scan import Scan


@schedule_check(scans_by_default)
def test_defaults_of_arguments(case: Scan, observe: Observe, target: Target) -> None:
    """An argument that the caller leaves out means what sam3's own signature says: forward, no features, no NMS.

    Callers written for an earlier sam3 leave out what came later. Where a default is another, a scan runs the other
    way, or detections are suppressed that nobody asked to suppress.
    """
    given, left_out = observe(case), observe(replace(case, defaults="left out"))
    for (rank, call), (_, bare) in zip(all_calls(given), all_calls(left_out), strict=True):
        message = "without its optional arguments the buffer {} than with sam3's defaults"
        if set(call.answer) != set(bare.answer):
            raise violation_at(
                rank,
                bare,
                message.format("answers with other keys"),
                expected=", ".join(sorted(call.answer)),
                got=", ".join(sorted(bare.answer)),
            )
        for key, values in call.answer.items():
            found = bare.answer[key]
            if isinstance(values, torch.Tensor) and not identical(values, found):
                raise violation_at(
                    rank,
                    bare,
                    message.format("answers otherwise"),
                    tensor=key,
                    expected=describe_scripted(key, values, case),
                    got=describe_scripted(key, found, case),
                    case=case,
                )
        if call.resident != bare.resident or call.detected != bare.detected:
            raise violation_at(
                rank,
                bare,
                message.format("detects or keeps other frames"),
                expected=f"detected {_numbers(call.detected)}; kept {frame_set(call.resident)}",
                got=f"detected {_numbers(bare.detected)}; kept {frame_set(bare.resident)}",
                case=case,
            )
    assert_own_detections(given)  # most other scans ask for features


def _numbers(detected: tuple[Detected, ...]) -> str:
    return ", ".join(str(one.frame) for one in detected) or "nothing"


@schedule_check(scans_at_thresholds, why_not_provided=why_no_nms)
def test_nms_at_thresholds(case: Scan, observe: Observe, target: Target) -> None:
    """At the very threshold NMS does as sam3's: a probability has to exceed its own, an overlap has to exceed its own.

    A score of one half is no candidate under a threshold of one half, and an overlap of one half removes nothing under
    one. In bfloat16, and between masks of few pixels, such values are common. Of large masks, a pixel decides: numbers
    of 16 bits do not count so far.
    """
    assert_nms_as_one_process(observe(case))


@schedule_check(scans_by_pixels, why_not_provided=why_no_nms, kind=HAZARD)
def test_nms_under_autocast(case: Scan, observe: Observe, target: Target) -> None:
    """Under bfloat16 autocast, as sam3's predictors call, NMS counts the pixels of masks exactly.

    A product of matrices counts the pixels that masks share, and autocast rounds it to 8 bits: by up to a 256th. Two
    masks whose overlap is as near to the threshold as that are decided by the rounding, and otherwise than without
    autocast.
    """
    assert_nms_as_one_process(observe(case))


@schedule_check(plain_scans, why_not_provided=why_no_nms, observation=observe_unasked, kind=HAZARD)
def test_nms_without_thresholds(case: Scan, observe: Observe, target: Target) -> None:
    """NMS that is asked for without both of its thresholds is refused with an exception.

    Today's callers give both. One that forgets them would otherwise go on without NMS, or with thresholds that nobody
    chose, and hear nothing of it.
    """
    seen: tuple[tuple[str, ...], ...] = observe(case)  # type: ignore[assignment]
    for rank, answered in enumerate(seen):
        for what in ASKED_WITHOUT:
            if what in answered:
                raise Violation(
                    f"NMS asked for with {what} is answered as if nothing were missing",
                    rank=rank,
                    call=0,
                    frame=case.calls()[0].frame,
                    expected="an exception",
                    got="an answer",
                )


watched_check = partial(schedule_check, short_scans_with_everything, observation=observe_watched, draws="watched scans")


@watched_check()
def test_answers_stay(case: Scan, observe: Observe, target: Target) -> None:
    """An answer does not change once it has been given: its keys and tensors stay, whatever is called later.

    Callers keep tracker features of frames that they have passed. One dictionary handed out again and again, or tensors
    that the next chunk is written into, turn those into another frame's.
    """
    seen: tuple[RankWatched, ...] = observe(case)  # type: ignore[assignment]
    for rank, call, change in changed(seen, lambda watched: watched.answer):
        raise violation_at(
            rank,
            call,
            f"the answer for frame {call.visit.frame} has changed after it was given",
            tensor=change.place,
            expected=change.before,
            got=change.after,
            case=case,
        )


@watched_check()
def test_inputs_unchanged(case: Scan, observe: Observe, target: Target) -> None:
    """What a call is handed it leaves as it is: images, text features, every frame's stage, and the geometric prompt.

    They are the caller's, which hands the same ones over with the next call. Entries may be added to ``backbone_out``,
    which the buffer gives back. Images that are overwritten are detected so by whoever comes next.
    """
    seen: tuple[RankWatched, ...] = observe(case)  # type: ignore[assignment]
    for rank, call, change in changed(seen, lambda watched: watched.inputs):
        raise violation_at(
            rank,
            call,
            f"the call changes what it was handed: {change.place}",
            tensor=change.place,
            expected=change.before,
            got=change.after,
        )


@schedule_check(visits_twice, observation=observe_changed, kind=HAZARD)
def test_answers_are_the_callers(case: Scan, observe: Observe, target: Target) -> None:
    """An answer is the caller's: changed in place, it does not change what a second visit of the frame is answered.

    Today's callers change nothing in place. One that does, and comes back to the frame, gets its own change.
    """
    assert_own_detections(observe(case))


def _late_part(seen: Seen) -> Seen:
    """The calls that ask for features and NMS."""
    late = tuple(replace(rank, calls=rank.calls[seen.case.asking_from :]) for rank in seen.ranks)
    return replace(seen, ranks=late)


@schedule_check(scans_asking_late, kind=HAZARD)
def test_settings_between_visits(case: Scan, observe: Observe, target: Target) -> bool:
    """A call is answered as it asks, whatever calls before it asked for: with tracker features, and after its NMS.

    Today's callers ask for the same with every call of a scan. Settings that a later visit changes are ignored by a
    buffer that keeps the chunk as its first visit wanted it, without a word.
    """
    late = _late_part(observe(case))
    if not any(rank.calls for rank in late.ranks):
        return False
    asked = buffer_options(target).intersection(FEATURE_FLAGS)
    for rank, call in all_calls(late):
        if asked and not features_of(call.answer):
            raise violation_at(
                rank,
                call,
                "the answer lacks the tracker features that this call asks for, and those before it did not",
                expected="three levels and their position encoding",
                got="keys " + ", ".join(sorted(call.answer)),
            )
    if case.suppression is not None:
        assert_nms_as_one_process(late)
    return bool(asked) or case.suppression is not None
