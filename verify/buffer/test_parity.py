"""The real detector at toy width: the buffer on several processes against detection in a single one."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import torch
from hypothesis import strategies as st
from torchvision.ops import box_convert

from reference.oracle.detection import SUPPRESSED, Suppression
from verify.buffer.agreement import assert_features, assert_near, assert_position_encoding
from verify.buffer.case import scans_of
from verify.buffer.observation import Call, Observe, RankSeen, observe_real
from verify.buffer.rounding import rounding_of, rounding_of_batches, unsettled_frames
from verify.engine.check import PROCESSES, check
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.describe import describe_difference, describe_tensor
from verify.tensors.tolerance import distance
from verify.video.detector import (
    DETECTIONS,
    buffer_options,
    features_of,
    is_batched,
    necks_of,
    place_of_buffer,
    why_no_argument_for_nms,
    why_no_buffer,
)
from verify.video.real import has_tracker_neck, makes_masks, single_process, single_process_of_texts
from verify.video.scan import Scan, scan_from_json
from verify.video.scripting import answers_by_itself

parity_check = partial(
    check,
    "parity",
    observation=observe_real,
    from_json=scan_from_json,
    why_not_provided=why_no_buffer,
    launchers=(PROCESSES,),
    per_subject=True,
    place_of_code=place_of_buffer,
)

#: A few chunks and a tail at every world size; a frame of the toy takes about 20 ms.
MAX_FRAMES = 9
#: How far corners may lie from those of centres and sizes, all from 0 to 1, in rounding steps.
CORNERS_NEAR = 4


def _real(
    target: Target, world_sizes: st.SearchStrategy[int], suppression: st.SearchStrategy[Suppression | None]
) -> st.SearchStrategy[Scan]:
    scans = scans_of(
        target,
        world_sizes,
        min_frames=5 if is_batched(target) else 2,  # in bfloat16, a batch of few frames may hide a wrong order
        max_frames=MAX_FRAMES,
        suppression=suppression,
        layouts=("contiguous",),
        geometric=0,
        gather=has_tracker_neck(target),
    )
    if not is_batched(target):
        return st.builds(lambda case, boxes: replace(case, boxes=boxes), scans, st.integers(0, 2))
    # Few cases are drawn, the simplest first: one with several frames in a batch, and boxes in each.
    return st.builds(
        lambda case, batch, boxes: replace(case, batch=batch, boxes=boxes),
        scans,
        st.sampled_from((3, 2, 4, 16)),
        st.sampled_from((2, 1, 0)),
    )


def _plain(target: Target, world_sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Scan]:
    return _real(target, world_sizes, st.none())


def _perhaps_listed(target: Target, world_sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Scan]:
    """Few cases are drawn, the simplest first: one with images in a list, where the target takes them so."""
    in_list = st.sampled_from((True, False)) if answers_by_itself(target, listed=True) else st.just(False)
    return st.builds(lambda case, listed: replace(case, listed=listed), _plain(target, world_sizes), in_list)


#: Thresholds between which the scores of most toys lie: 0.6 to 0.8.
_THRESHOLDS = (0.5, 0.7, 0.73, 0.76)
_OVERLAPS = (0.15, 0.3, 0.45)


def _scores(target: Target, case: Scan) -> torch.Tensor:
    """The distinct probabilities [N] of all detections in a case's clip, ascending."""
    frames = single_process(target, case)
    return torch.cat([frame["pred_logits"].float().sigmoid().flatten() for frame in frames]).unique()


@lru_cache(maxsize=8)
def _usual_thresholds_fit(target: Target) -> bool:
    scores = _scores(target, Scan(frames=4, world_size=1, gather=False, batch=4 * is_batched(target)))
    return bool(scores.min() < _THRESHOLDS[1] < scores.max())


@st.composite
def _with_own_threshold(draw: st.DrawFn, target: Target, world_sizes: st.SearchStrategy[int]) -> Scan:
    """Draw cases whose threshold lies between two scores of their own clip: few below it, or many."""
    case = draw(_real(target, world_sizes, st.none()))
    scores = _scores(target, case)
    below = int(draw(st.sampled_from((0.0, 0.2, 0.5))) * (len(scores) - 2))
    threshold = float(scores[below : below + 2].mean())
    return replace(case, suppression=Suppression(threshold, draw(st.sampled_from(_OVERLAPS))))


def _with_nms(target: Target, world_sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Scan]:
    if not _usual_thresholds_fit(target):
        return _with_own_threshold(target, world_sizes)
    thresholds = st.builds(Suppression, st.sampled_from(_THRESHOLDS), st.sampled_from(_OVERLAPS))
    return _real(target, world_sizes, thresholds)


@parity_check(_perhaps_listed)
def test_parity_detections(case: Scan, observe: Observe, target: Target) -> None:
    """Several ranks find in every frame what one process finds in it alone, bit for bit; batches up to rounding.

    Forward and in reverse, with tails, several texts and box prompts, and with images in one tensor or in a list, as
    sam3's loaders of videos hand them over. The corners of boxes are those of their centres and sizes. Any difference
    is a frame, a prompt or a number that went astray between the detector and its caller. How far rounding carries a
    batch is measured, by moving the images of single frames by one rounding step.
    """
    alone = single_process(target, case)
    allowed = rounding_of_batches(target, case, alone)
    for rank in observe(case).ranks:
        for call in rank.calls:
            for tensor in DETECTIONS:
                if (right := alone[call.visit.frame].get(tensor)) is None:
                    continue  # a detector without masks
                message = f"frame {call.visit.frame}'s {tensor} is not what a single process computes"
                assert_near(tensor, right, call.answer.get(tensor), allowed[tensor], message, rank, call)
            _assert_corners(rank, call)


def _assert_corners(rank: RankSeen, call: Call) -> None:
    boxes, corners = (call.answer.get(name) for name in ("pred_boxes", "pred_boxes_xyxy"))
    if isinstance(boxes, torch.Tensor) and isinstance(corners, torch.Tensor):
        near = CORNERS_NEAR * torch.finfo(boxes.dtype).eps
        message = f"frame {call.visit.frame}'s pred_boxes_xyxy are not the corners of its pred_boxes"
        expected = box_convert(boxes.float(), "cxcywh", "xyxy").to(corners)
        assert_near("pred_boxes_xyxy", expected, corners, near, message, rank, call)


def _of_texts(target: Target, world_sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Scan]:
    return st.builds(
        Scan,
        frames=st.just(2),
        world_size=st.just(1),
        batch=st.just(int(is_batched(target))),
        prompts=st.sampled_from((2, 3)),
        boxes=st.integers(0, 1),
        gather=st.just(False),
        seed=st.integers(0, 255),
    )


@parity_check(_of_texts, every_size=False)
def test_order_of_texts(case: Scan, observe: Observe, target: Target) -> None:
    """What is found for a text does not hang on its place in the list of texts.

    In a single process, with texts of different lengths: whatever belongs to a text, its features and which of them
    fill up, is looked up by its number. An error in that is the same on one rank and on several.
    """
    plain = single_process_of_texts(target, case)
    turned = single_process_of_texts(target, case, turned=True)
    allowed = rounding_of(target, plain, [single_process_of_texts(target, case, perturbation=run) for run in (1, 2, 3)])
    for frame, (right, got) in enumerate(zip(plain, turned, strict=True)):
        for tensor in DETECTIONS:
            if tensor in right and not distance(right[tensor], got[tensor]) <= allowed[tensor]:
                raise Violation(
                    f"frame {frame}'s {tensor} is another where the list of texts is in another order",
                    rank=0,
                    call=frame,
                    frame=frame,
                    tensor=tensor,
                    expected=f"{describe_tensor(right[tensor])}, within {allowed[tensor]:.3g}",
                    got=f"{describe_tensor(got[tensor])}; {describe_difference(right[tensor], got[tensor])}",
                )


def _why_no_nms(target: Target) -> str | None:
    if reason := why_no_buffer(target) or why_no_argument_for_nms(target):
        return reason
    return (
        None if makes_masks(target) else "its detector makes no masks, and so there is nothing that NMS could compare"
    )


@parity_check(_with_nms, why_not_provided=_why_no_nms)
def test_parity_nms(case: Scan, observe: Observe, target: Target) -> bool:
    """With NMS on, several ranks suppress what a plain single-process mask NMS suppresses of the same detections.

    On every frame and for every text. A detection that survives on several GPUs and not on one is an object tracked
    twice.
    """
    assert case.suppression is not None
    alone = single_process(target, case)
    plain = single_process(target, replace(case, suppression=None))
    allowed = rounding_of_batches(target, replace(case, suppression=None), plain)
    unsettled = unsettled_frames(target, case, alone, plain)
    for rank in observe(case).ranks:
        for call in rank.calls:
            if call.visit.frame in unsettled:
                continue  # what NMS keeps of it hangs on a rounding step, or on the order of equal scores
            right, got = alone[call.visit.frame], call.answer
            for tensor in DETECTIONS:
                message = f"frame {call.visit.frame}'s {tensor} after NMS is not what a single process computes"
                expected, found = right[tensor], got.get(tensor)
                if tensor == "pred_logits" and isinstance(found, torch.Tensor):  # how low is not the point
                    expected, found = expected.clamp(min=SUPPRESSED), found.clamp(min=SUPPRESSED)
                assert_near(tensor, expected, found, allowed[tensor], message, rank, call)
    settled = [frame for frame in range(case.frames) if frame not in unsettled]
    above = sum(int((plain[frame]["pred_logits"].sigmoid() > case.suppression.probability).sum()) for frame in settled)
    return above > sum(int((alone[frame]["pred_logits"] > SUPPRESSED).sum()) for frame in settled)


def _why_no_tracker(target: Target) -> str | None:
    reason = why_no_buffer(target)
    if reason is None and not has_tracker_neck(target):
        return "the builder makes no tracker neck, so there are no features to hand on"
    return reason


def _perhaps_nms(target: Target, world_sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Scan]:
    if "run_nms" not in buffer_options(target) or not makes_masks(target):
        return _plain(target, world_sizes)
    return _plain(target, world_sizes) | _with_nms(target, world_sizes)


@parity_check(_perhaps_nms, why_not_provided=_why_no_tracker)
def test_parity_tracker_features(case: Scan, observe: Observe, target: Target) -> None:
    """Several ranks hand on the tracker features that one process computes for the frame, up to bfloat16's rounding.

    The tracker propagates masks with them; it runs on every rank, and must be given the same on each.
    """
    alone = single_process(target, case)
    allowed = rounding_of_batches(target, case, alone)
    for rank in observe(case).ranks:
        for call in rank.calls:
            right = alone[call.visit.frame]
            for neck in necks_of(target):
                levels = {
                    name.removeprefix(f"{neck}_"): right[name] for name in right if name.startswith(f"{neck}_fpn")
                }
                if case.batch:
                    got = features_of(call.answer, neck)
                    for level, values in levels.items():
                        message = f"frame {call.visit.frame}'s {neck} features are not what a single process computes"
                        near = allowed[f"{neck}_{level}"]
                        assert_near(f"{neck}_backbone_{level}", values, got.get(level), near, message, rank, call)
                else:
                    assert_features(call, rank, neck, [levels], None)
                encodings = [right[f"{neck}_pos_enc_{level}"] for level in range(len(levels))]
                assert_position_encoding(call, rank, neck, encodings)
