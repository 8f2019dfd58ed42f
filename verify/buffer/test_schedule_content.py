"""What an answer holds: every bit, the survivors of NMS, the frame's own tracker features."""

from __future__ import annotations

from dataclasses import replace

import torch

from reference.oracle.detection import SUPPRESSED
from verify.buffer.agreement import (
    all_calls,
    assert_answers_as_called,
    assert_nms_as_one_process,
    assert_own_detections,
    assert_own_features,
    assert_same_tensor,
    is_own_detection,
    violation_at,
)
from verify.buffer.case import (
    scans_as_called,
    scans_perhaps_with_nms,
    scans_with_nms,
    scans_with_tracker,
    scans_without_nms,
    scans_without_tracker,
    why_no_nms,
)
from verify.buffer.group import schedule_check
from verify.buffer.observation import Observe, expected_answer
from verify.engine.check import HAZARD
from verify.target.models import construction
from verify.target.naming import Target
from verify.tensors.describe import describe_tensor
from verify.video.detector import (
    DETECTIONS,
    FEATURE_FLAGS,
    OBJECT_IDS,
    buffer_options,
    can_leave_out_the_neck,
    features_of,
    is_batched,
    necks_of,
)
from verify.video.scan import Scan
from verify.video.scripting import first_answer, why_no_scripted_buffer

#: Types that a gather may be tempted to save memory with.
_SHORTER_TYPES = (torch.bfloat16, torch.float16)


@schedule_check(scans_without_nms, draws="scans without NMS")
def test_full_precision(case: Scan, observe: Observe, target: Target) -> None:
    """Logits, boxes and masks arrive in the detector's own type, with every bit.

    Scores and boxes that pass through a shorter type on their way between ranks differ from those of one GPU: scores
    near a threshold flip, and the tracker is fed other boxes than the detector found.
    """
    seen = observe(case)
    for rank, call in all_calls(seen):
        right = expected_answer(case, call.visit, case.own_rank(call.visit.frame, rank.rank))
        for tensor in DETECTIONS:
            got = call.answer.get(tensor)
            if not isinstance(got, torch.Tensor) or got.shape != right[tensor].shape:
                continue  # a missing tensor is test_coverage's to report
            if got.dtype != right[tensor].dtype:
                raise violation_at(
                    rank,
                    call,
                    f"{tensor} arrives as {got.dtype}, the detector computes {right[tensor].dtype}",
                    tensor=tensor,
                    expected=describe_tensor(right[tensor]),
                    got=describe_tensor(got),
                )
            if is_own_detection(case, call, rank, tensor, got):
                continue  # another rank's, every bit of it: of its number, rounding may be what makes it this rank's
            shorter = [
                str(short) for short in _SHORTER_TYPES if torch.equal(got, right[tensor].to(short).to(got.dtype))
            ]
            if shorter:
                message = f"{tensor} was rounded to {' or '.join(shorter)} on its way"
                assert_same_tensor(tensor, right[tensor], got, message, rank, call, case)


@schedule_check(scans_with_nms, why_not_provided=why_no_nms)
def test_nms_suppression(case: Scan, observe: Observe, target: Target) -> None:
    """NMS suppresses what a plain single-process mask NMS does: on every frame, for every prompt, at both thresholds.

    Also on frames detected ahead of need. Survivors keep their logits, boxes and masks bit for bit. A frame that
    escapes NMS, or meets it with other settings, gives the tracker one object twice; one suppressed too much loses it.
    """
    assert_nms_as_one_process(observe(case))


@schedule_check(scans_with_tracker, draws="scans with tracker features")
def test_tracker_features(case: Scan, observe: Observe, target: Target) -> None:
    """With gathering on, an answer holds the frame's own tracker features: three levels in order, and their encoding.

    In a multiplex model those of the interactive neck, too. They are exact up to bfloat16's rounding. The tracker
    propagates masks with them: those of another frame, or levels exchanged, make masks drift without any error.
    """
    assert_own_features(observe(case), target)


@schedule_check(scans_as_called)
def test_as_called(case: Scan, observe: Observe, target: Target) -> None:
    """Scans that ask for all at once are answered rightly: for NMS and features, under a limit, out of order, twice.

    sam3's video model passes limit, NMS and a request for features with every call, and asks for a visual prompt as the
    second text of two. What looks at the limit first may forget the others, and what jumps builds a chunk of its own.
    """
    assert_answers_as_called(observe(case), target)


def _why_no_object_ids(target: Target) -> str | None:
    answer = first_answer(target)
    return None if OBJECT_IDS in answer else f"the buffer's answer has no {OBJECT_IDS}"


@schedule_check(scans_perhaps_with_nms, why_not_applicable=_why_no_object_ids)
def test_object_ids(case: Scan, observe: Observe, target: Target) -> None:
    """An answer's object ids are the frame's own: a query's number where its score counts, and -1 where it does not.

    A detection that NMS has removed has none. The tracker starts objects by them: ids of another frame start objects
    that are not there.
    """
    threshold = float(getattr(construction(target, tracker=True).model, "tracking_score_thresh", 0.0))
    for rank, call in all_calls(observe(case)):
        found = call.answer.get("pred_logits")
        logits = expected_answer(replace(case, suppression=None), call.visit, rank.rank)["pred_logits"]
        if not isinstance(found, torch.Tensor) or found.shape != logits.shape:
            continue  # a missing tensor is test_coverage's to report
        numbers = torch.arange(logits.shape[1]).expand(logits.shape[:2])
        # Whether NMS keeps the right ones is for test_nms_suppression to say.
        right = torch.where(((logits > threshold) & (found > SUPPRESSED)).squeeze(-1), numbers, -1)
        got = call.answer.get(OBJECT_IDS)
        if not isinstance(got, torch.Tensor) or not torch.equal(got.long(), right):
            raise violation_at(
                rank,
                call,
                f"the object ids of frame {call.visit.frame} are not its own",
                tensor=OBJECT_IDS,
                expected=right.tolist(),
                got=got.tolist() if isinstance(got, torch.Tensor) else "keys " + ", ".join(sorted(call.answer)),
                case=case,
            )


def _why_no_batch(target: Target) -> str | None:
    return None if is_batched(target) else "a chunked buffer detects one frame at a time"


@schedule_check(scans_without_nms, draws="scans without NMS", why_not_applicable=_why_no_batch, kind=HAZARD)
def test_rows_of_answers(case: Scan, observe: Observe, target: Target) -> None:
    """Every tensor of an answer that is cut out of a batch is there for each frame of it: none comes without elements.

    What is laid out sequence first has its batch elsewhere than in its first dimension: cut there, it is empty for
    every frame but the first. Today nobody reads it.
    """
    for rank, call in all_calls(observe(case)):
        for key, values in call.answer.items():
            if isinstance(values, torch.Tensor) and values.numel() == 0:
                raise violation_at(
                    rank,
                    call,
                    f"{key} in the answer for frame {call.visit.frame} has no elements",
                    tensor=key,
                    expected="the frame's own part of the batch",
                    got=describe_tensor(values),
                    case=case,
                )


def _why_no_request(target: Target) -> str | None:
    reason = why_no_scripted_buffer(target)
    if reason is None and not buffer_options(target).intersection(FEATURE_FLAGS):
        return f"the buffer has no argument {FEATURE_FLAGS[0]}"
    return reason


@schedule_check(scans_with_tracker, draws="scans with tracker features", why_not_provided=_why_no_request)
def test_features_on_request(case: Scan, observe: Observe, target: Target) -> None:
    """Tracker features are in the answer when the call asks for them, and only then.

    The argument ``return_sam2_backbone_feats`` exists so that a caller without a tracker does not hold three feature
    maps a frame. Where it does nothing, every caller holds them.
    """
    for rank, call in all_calls(observe(replace(case, features=False))):
        if unasked := [key for key in call.answer if any(features_of({key: None}, neck) for neck in necks_of(target))]:
            raise violation_at(
                rank,
                call,
                "the answer holds tracker features that the call did not ask for",
                tensor=unasked[0],
                expected="none: return_sam2_backbone_feats=False",
                got=", ".join(unasked),
            )
    for rank, call in all_calls(observe(case)):
        if not features_of(call.answer):
            raise violation_at(
                rank,
                call,
                "the answer lacks the tracker features that the call asked for",
                expected="three levels and their position encoding",
                got="keys " + ", ".join(sorted(call.answer)),
            )


def _why_no_model_without_neck(target: Target) -> str | None:
    return None if can_leave_out_the_neck(target) else "the builder always makes a tracker neck"


@schedule_check(scans_without_tracker, why_not_applicable=_why_no_model_without_neck)
def test_without_tracker_neck(case: Scan, observe: Observe, target: Target) -> None:
    """A detector without a tracker neck, built with ``gather_backbone_out`` at its default, answers every frame.

    The recipe builds it so (``gather_backbone_out: null``, no instance interactivity). Gathering features that the
    model does not have fails at the first call.
    """
    assert_own_detections(observe(case))
