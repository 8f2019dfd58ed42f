"""A buffer used otherwise than for one scan in order: out of order, under limits or other prompts, a second time."""

from __future__ import annotations

from verify.buffer.agreement import (
    all_calls,
    assert_answers_as_called,
    assert_inside_clip,
    assert_own_detections,
    chunk_numbers,
    frame_set,
    resident_frames,
    violation_at,
)
from verify.buffer.case import (
    limited_scans,
    long_limited_scans,
    scans_under_changing_prompts,
    scans_with_prompt_a_frame,
    scans_with_prompts_in_batches,
    scans_with_two_buffers,
    takes_limits,
    visits_in_any_order,
)
from verify.buffer.group import schedule_check
from verify.buffer.observation import Observe, Seen
from verify.buffer.videos import VIDEOS, TwoVideos, observe_two_videos, two_videos, two_videos_from_json
from verify.engine.check import HAZARD
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.video.detector import is_batched
from verify.video.scan import Scan
from verify.video.scripting import why_no_scripted_buffer


@schedule_check(lambda target, sizes: visits_in_any_order(target, sizes))
def test_any_order_answers(case: Scan, observe: Observe, target: Target) -> None:
    """Frames visited out of order, or scanned again with the same buffer, are answered with their own detections.

    A user who jumps along the video, or tracks forward and then in reverse, does both.
    """
    assert_own_detections(observe(case))


@schedule_check(lambda target, sizes: visits_in_any_order(target, sizes), kind=HAZARD)
def test_any_order_residency(case: Scan, observe: Observe, target: Target) -> None:
    """Frames visited out of order, or scanned again, leave no more than two chunks in the buffer.

    Today's callers scan in order and start each scan with a new buffer. One that jumps along the video leaves a chunk
    behind at each jump, in the memory of every GPU.
    """
    for rank, call in all_calls(observe(case)):
        resident = resident_frames(rank, call, case)
        if len(chunk_numbers(resident, case)) > 2:
            raise violation_at(
                rank,
                call,
                f"the buffer holds more than two chunks of {case.chunk_size} after the call",
                expected=f"at most two chunks, that of frame {call.visit.frame} among them",
                got="frames " + frame_set(resident),
                case=case,
            )


def _why_no_limit(target: Target) -> str | None:
    reason = why_no_scripted_buffer(target)
    if reason is None and not takes_limits(target):
        return "the buffer has no argument max_frame_num_to_track"
    return reason


@schedule_check(lambda target, sizes: limited_scans(target, sizes), why_not_provided=_why_no_limit)
def test_limited_scan(case: Scan, observe: Observe, target: Target) -> None:
    """A scan under ``max_frame_num_to_track`` answers every frame that it visits with the frame's own detection.

    sam3's video predictors pass the limit with every call, and visit start to start + limit, in reverse start - 1 to
    start - limit, as far as the clip goes. A limit cuts a chunk short: what lies behind the cut must not be put where
    a frame belongs, and a frame at the cut must not be left without detections.
    """
    seen = observe(case)
    assert_own_detections(seen)
    assert_inside_clip(seen)


@schedule_check(lambda target, sizes: limited_scans(target, sizes, past_the_end=True), why_not_provided=_why_no_limit)
def test_limit_past_the_end(case: Scan, observe: Observe, target: Target) -> None:
    """A limit that reaches past the clip's end is none: every frame up to the end is answered with its own detection.

    A user who asks for more frames than are left gets those that are left. A chunk that is cut at the limit, and not at
    the end of the clip, asks for frames that do not exist.
    """
    seen = observe(case)
    assert_own_detections(seen)
    assert_inside_clip(seen)


@schedule_check(lambda target, sizes: limited_scans(target, sizes, told=False), why_not_provided=_why_no_limit)
def test_limit_without_a_start(case: Scan, observe: Observe, target: Target) -> None:
    """A call that is given a limit, and not where the scan began, answers the frame that it is asked for.

    sam3's video predictors begin with the first frame that has a prompt, unless their caller names another, and hand on
    what the caller named: nothing. A buffer that takes the first frame of the clip for the start then has a limit that
    the scan may already be past.
    """
    seen = observe(case)
    assert_own_detections(seen)
    assert_inside_clip(seen)


@schedule_check(long_limited_scans, why_not_provided=_why_no_limit)
def test_limited_residency(case: Scan, observe: Observe, target: Target) -> None:
    """A scan under ``max_frame_num_to_track`` leaves nothing behind: a chunk goes when the scan has left it.

    A chunk that is stored under its cut end, and looked for under its whole one, stays in the memory of every GPU.
    """
    for rank, call in all_calls(observe(case)):
        resident = resident_frames(rank, call, case)
        left = chunk_numbers((visit.frame for visit in case.calls()[: call.number]), case)
        left -= chunk_numbers([call.visit.frame], case)
        stale = frozenset(frame for frame in resident if chunk_numbers([frame], case) <= left)
        if stale:
            raise violation_at(
                rank,
                call,
                f"frames {frame_set(stale)} of a chunk already left are still in the buffer",
                expected=f"none but of the chunk of frame {call.visit.frame}, and of the next",
                got="frames " + frame_set(resident),
                case=case,
            )


@schedule_check(
    lambda target, sizes: limited_scans(target, sizes, resumed=True), why_not_provided=_why_no_limit, kind=HAZARD
)
def test_resumed_scan(case: Scan, observe: Observe, target: Target) -> None:
    """A scan that goes on past ``max_frame_num_to_track`` with the same buffer answers rightly.

    If a chunk that the limit cut short is stored as if it were whole, the frames behind the limit are later answered
    with the detection of the last frame before it. Callers that start each scan with a new buffer do not see it.
    """
    assert_own_detections(observe(case))


def _why_no_prompt_by_argument(target: Target) -> str | None:
    return "a batched buffer takes each frame's prompt from its stage: test_own_prompts" if is_batched(target) else None


def _why_no_prompt_by_stage(target: Target) -> str | None:
    if is_batched(target):
        return None
    return "a chunked buffer is given one prompt for a scan: test_prompt_of_each_frame"


@schedule_check(
    lambda target, sizes: scans_with_prompt_a_frame(target, sizes), why_not_applicable=_why_no_prompt_by_stage
)
def test_own_prompts(case: Scan, observe: Observe, target: Target) -> None:
    """In a batch each frame is detected under its own geometric prompt, that of its stage.

    The prompt handed over with the call is not used. One frame's prompt for the whole batch, or prompts exchanged
    within it, find the objects of another frame's prompt.
    """
    assert_own_detections(observe(case))


@schedule_check(scans_with_prompts_in_batches, why_not_applicable=_why_no_prompt_by_stage, kind=HAZARD)
def test_prompts_in_a_batch(case: Scan, observe: Observe, target: Target) -> None:
    """Frames with several texts each, or some with a box prompt and some without, are detected together as alone.

    Today's callers give one text and no boxes. A batch with one row a frame loses the second text's objects; one that
    takes what fills a frame's boxes up for boxes finds the objects of prompts that nobody gave.
    """
    assert_own_detections(observe(case))


@schedule_check(
    lambda target, sizes: scans_with_prompt_a_frame(target, sizes),
    why_not_applicable=_why_no_prompt_by_argument,
    kind=HAZARD,
)
def test_prompt_of_each_frame(case: Scan, observe: Observe, target: Target) -> bool:
    """A geometric prompt that differs from frame to frame reaches each frame's own detection.

    Today's callers give one prompt for a scan. A frame built ahead of need with the prompt of the call that built it
    is answered under a prompt that is a chunk late.
    """
    if len(case.calls()) < 2:
        return False
    assert_own_detections(observe(case))
    return True


@schedule_check(lambda target, sizes: scans_under_changing_prompts(target, sizes), kind=HAZARD)
def test_buffer_under_another_prompt(case: Scan, observe: Observe, target: Target) -> None:
    """A buffer handed on to a scan under another prompt does not answer with the detections of the old one.

    Today's callers start a new buffer with a new prompt. One that keeps it gets the objects of the prompt before; also
    one that changes its prompt in place, where the buffer remembers which prompt it was, and not what that said.
    """
    assert_own_detections(observe(case))


@schedule_check(lambda target, sizes: scans_with_two_buffers(target, sizes))
def test_second_buffer(case: Scan, observe: Observe, target: Target) -> None:
    """A second scan with the same model, another prompt and an empty buffer is answered by detections of its own.

    So callers start each video and each prompt. Detections kept on the model, by frame, would answer the second
    video with the objects of the first.
    """
    assert_own_detections(observe(case))


@schedule_check(two_videos, observation=observe_two_videos, from_json=two_videos_from_json, pictures=None)
def test_second_video(case: TwoVideos, observe: Observe, target: Target) -> None:
    """A second video on the same model is answered as its own images, length, texts and thresholds say.

    One after the other, and in turns: a predictor has a model and many sessions. What is noted on the model when the
    first video begins, such as its images, its length or its thresholds, answers the second with objects of the first.
    """
    videos: tuple[Seen, ...] = observe(case)  # type: ignore[arg-type, assignment]
    for number, seen in enumerate(videos):
        try:
            assert_answers_as_called(seen, target)
        except Violation as violation:
            violation.message = f"{VIDEOS[number]} video: {violation.message}"
            violation.details = _images_of_others(seen, number)
            raise


def _images_of_others(seen: Seen, number: int) -> str:
    """Say on which frames of the other video a video's calls have run the detector."""
    others = {found.frame for _, call in all_calls(seen) for found in call.detected if found.video != number}
    if not others:
        return ""
    return f"Calls for it detected images of the {VIDEOS[1 - number]} video: frames {frame_set(frozenset(others))}."
