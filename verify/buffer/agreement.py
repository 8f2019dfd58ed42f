"""Comparisons of what ranks saw with what is right; each raises a ``Violation`` whose message stands alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from fixtures.ranks import Collective
from fixtures.synthetic.script import FRAMES_TOLD, Origin, identify
from reference.oracle.detection import SUPPRESSED
from verify.buffer.observation import Call, RankSeen, Seen, expected_answer, expected_kept
from verify.engine.finding import NotCovered, Violation, call_in
from verify.target.naming import Target
from verify.tensors.describe import describe_difference, describe_tensor
from verify.tensors.tolerance import distance
from verify.video.detector import DETECTIONS, features_of, necks_of
from verify.video.scan import Scan
from verify.video.scripting import script_of

Table = Sequence[Sequence[object]]


def _origin(tensor: str, values: Any, case: Scan) -> Origin | None:
    """What a scripted tensor's first value says it is the output of; None where it says nothing."""
    return identify(tensor, torch.as_tensor(values)) if case.frames <= FRAMES_TOLD else None


def describe_scripted(tensor: str, values: Any, case: Scan) -> str:
    """A scripted tensor in one line, with what its first value says it is the output of."""
    if not isinstance(values, torch.Tensor):
        return describe_tensor(values)
    origin = _origin(tensor, values, case)
    return f"{origin} ({describe_tensor(values)})" if origin else describe_tensor(values)


def _frames_around(case: Scan, rank: RankSeen, number: int) -> Table:
    """A table of the calls around call ``number`` of a rank: who was expected and what came."""
    rows: list[list[object]] = [["call", "frame", "delivered", "detected", "in the buffer after"]]
    nobodys = "not a detection" if case.frames <= FRAMES_TOLD else "not told in a clip of so many frames"
    for call in rank.calls[max(0, number - 2) : number + 3]:
        origin = _origin("pred_boxes", call.answer.get("pred_boxes", ()), case)
        delivered = nobodys if origin is None else f"frame {origin.frame}, rank {origin.rank}"
        mark = ">" if call.number == number else " "
        detected = ", ".join(str(detected.frame) for detected in call.detected) or "-"
        rows.append([f"{mark}{call.number}", call.visit.frame, delivered, detected, frame_set(call.resident)])
    return rows


def violation_at(
    rank: RankSeen,
    call: Call,
    message: str,
    *,
    tensor: str | None = None,
    expected: object = None,
    got: object = None,
    case: Scan | None = None,
) -> Violation:
    """A violation in a call of the buffer on a rank; with a ``case``, the calls around it are shown."""
    return Violation(
        message,
        rank=rank.rank,
        call=call.number,
        frame=call.visit.frame,
        tensor=tensor,
        expected=expected,
        got=got,
        table=_frames_around(case, rank, call.number) if case else (),
    )


def frame_set(frames: frozenset[int] | None) -> str:
    return "not kept by frame" if frames is None else ", ".join(map(str, sorted(frames))) or "nothing"


def ranks_own_first(case: Scan, call: Call, rank: RankSeen) -> list[int]:
    """All ranks that may have computed a call's frame, the one whose share it is first: padding repeats frames."""
    own = case.own_rank(call.visit.frame, rank.rank)
    return [own, *(rank for rank in range(case.world_size) if rank != own)]


def is_own_detection(case: Scan, call: Call, rank: RankSeen, tensor: str, got: torch.Tensor) -> bool:
    """Whether a tensor is the visited frame's own detection, whichever rank computed it."""
    return any(
        torch.equal(expected_answer(case, call.visit, computing)[tensor], got)
        for computing in ranks_own_first(case, call, rank)
    )


def assert_own_detections(seen: Seen, tensors: Sequence[str] = DETECTIONS) -> None:
    """Every answer on every rank is the visited frame's own detection, bit for bit, under the visit's prompts."""
    case = seen.case
    for rank in seen.ranks:
        for call in rank.calls:
            expected = expected_answer(case, call.visit, case.own_rank(call.visit.frame, rank.rank))
            for tensor in tensors:
                got = call.answer.get(tensor)
                if isinstance(got, torch.Tensor) and is_own_detection(case, call, rank, tensor, got):
                    continue
                missing = not isinstance(got, torch.Tensor)
                raise violation_at(
                    rank,
                    call,
                    f"the answer has no {tensor}"
                    if missing
                    else f"the answer for frame {call.visit.frame} is not that frame's own detection",
                    tensor=tensor,
                    expected=describe_scripted(tensor, expected[tensor], case),
                    got="keys " + ", ".join(sorted(call.answer)) if missing else describe_scripted(tensor, got, case),
                    case=case,
                )


def assert_inside_clip(seen: Seen) -> None:
    """No rank detects a frame outside the clip, or holds one."""
    case = seen.case
    for rank, call in all_calls(seen):
        for what, frames in (
            ("detects", {detected.frame for detected in call.detected}),
            ("holds", set(call.resident or ())),
        ):
            outside = {frame for frame in frames if not 0 <= frame < case.frames}
            if outside:
                raise violation_at(
                    rank,
                    call,
                    f"the buffer {what} a frame outside the clip's {case.frames}",
                    expected=f"frames 0 to {case.frames - 1}",
                    got=frame_set(frozenset(outside)),
                    case=case,
                )


def identical(expected: Any, got: Any) -> bool:
    """Whether two values are tensors of the same type, shape and values; NaN, too, is the same as NaN."""
    if not (isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor)):
        return False
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return False
    return torch.equal(got, expected) or bool(((got == expected) | (got.isnan() & expected.isnan())).all())


def assert_same_tensor(
    tensor: str, expected: torch.Tensor, got: Any, message: str, rank: RankSeen, call: Call, case: Scan | None = None
) -> None:
    """Two tensors have the same type, shape and bits."""
    if identical(expected, got):
        return
    shapes = isinstance(got, torch.Tensor) and got.shape == expected.shape
    raise violation_at(
        rank,
        call,
        message,
        tensor=tensor,
        expected=describe_tensor(expected),
        got=describe_tensor(got) + (f"; {describe_difference(expected, got)}" if shapes else ""),
        case=case,
    )


def assert_near(
    tensor: str, expected: torch.Tensor, got: Any, allowed: float, message: str, rank: RankSeen, call: Call
) -> None:
    """Two tensors have the same type and shape, and lie at most ``allowed`` apart; where that is 0, the same bits."""
    if allowed == 0.0:
        assert_same_tensor(tensor, expected, got, message, rank, call)
        return
    alike = isinstance(got, torch.Tensor) and (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if alike and distance(expected, got) <= allowed:
        return
    raise violation_at(
        rank,
        call,
        message,
        tensor=tensor,
        expected=f"{describe_tensor(expected)}, within {allowed:.3g}",
        got=describe_tensor(got) + (f"; {describe_difference(expected, got)}" if alike else ""),
    )


def assert_nms_as_one_process(seen: Seen) -> None:
    """NMS keeps what a plain one in a single process keeps, in every answer; what it keeps has every bit."""
    case = seen.case
    assert case.suppression is not None
    # First: what is of another frame or video differs in its logits, too.
    assert_own_detections(seen, [tensor for tensor in DETECTIONS if tensor != "pred_logits"])
    for rank, call in all_calls(seen):
        plain = expected_answer(replace(case, suppression=None), call.visit, rank.rank)
        logits = plain["pred_logits"]
        kept = expected_kept(case, call.visit)
        got = call.answer.get("pred_logits")
        if not isinstance(got, torch.Tensor) or got.shape != logits.shape:
            continue  # a missing tensor is test_coverage's to report
        if got.isnan().any():
            raise violation_at(
                rank,
                call,
                f"after NMS {int(got.isnan().sum())} logits are no numbers",
                tensor="pred_logits",
                expected="finite logits, or -inf where NMS suppresses",
                got=describe_tensor(got),
                case=case,
            )
        survives = got.squeeze(-1) > SUPPRESSED
        if not torch.equal(survives, kept):
            prompt, query = (int(number) for number in (survives != kept).nonzero()[0])
            raise violation_at(
                rank,
                call,
                f"NMS {'keeps' if survives[prompt, query] else 'suppresses'} query {query} of prompt {prompt}, "
                f"which a single-process NMS {'suppresses' if survives[prompt, query] else 'keeps'}",
                tensor="pred_logits",
                expected=f"kept, a row a prompt: {kept.int().tolist()}",
                got=f"kept, a row a prompt: {survives.int().tolist()}",
                case=case,
            )
        if not torch.equal(got[kept], logits[kept]):
            assert_same_tensor(
                "pred_logits", logits[kept], got[kept], "NMS changed the logits of detections it keeps", rank, call
            )


def _same_features(expected: Mapping[str, torch.Tensor], got: Mapping[str, Any], level: str) -> bool:
    found, right = got.get(level), expected[level]
    return (
        isinstance(found, torch.Tensor)
        and found.shape == right.shape
        and torch.equal(found.to(torch.bfloat16), right.to(torch.bfloat16))
    )


def assert_features(
    call: Call, rank: RankSeen, neck: str, allowed: Sequence[Mapping[str, torch.Tensor]], case: Scan | None
) -> None:
    """An answer's features of a neck are the frame's own up to bfloat16's rounding: one of those ``allowed``."""
    got = features_of(call.answer, neck)
    expected = next((levels for levels in allowed if all(_same_features(levels, got, level) for level in levels)), None)
    if expected is not None:
        return
    level = next(level for level in allowed[0] if not _same_features(allowed[0], got, level))
    found = got.get(level)
    raise violation_at(
        rank,
        call,
        f"{neck} features of level {level[-1]} are not the frame's own"
        if found is not None
        else f"the answer has no {neck} features of level {level[-1]}",
        tensor=f"{neck}_backbone_{level}",
        expected=describe_tensor(allowed[0][level].to(torch.bfloat16)),
        got=describe_tensor(found) if found is not None else "keys " + ", ".join(sorted(call.answer)),
        case=case,
    )


def assert_position_encoding(call: Call, rank: RankSeen, neck: str, expected: Sequence[torch.Tensor]) -> None:
    """An answer carries a neck's position encoding of every level."""
    found = features_of(call.answer, neck).get("pos_enc")
    levels = list(found) if isinstance(found, (list, tuple)) else [found]
    equal = len(levels) == len(expected) and all(
        isinstance(level, torch.Tensor) and torch.equal(level.float(), right)
        for level, right in zip(levels, expected, strict=True)
    )
    if not equal:
        raise violation_at(
            rank,
            call,
            f"the {neck}'s position encoding is missing or not the detector's",
            tensor=f"{neck}_backbone_pos_enc",
            expected="; ".join(describe_tensor(level) for level in expected),
            got="; ".join(describe_tensor(level) for level in levels),
        )


def assert_own_features(seen: Seen, target: Target) -> None:
    """Every answer holds the frame's own features of every neck, and the necks' position encodings."""
    case, script = seen.case, script_of(seen.case)
    for rank, call in all_calls(seen):
        visit = call.visit
        for neck in necks_of(target):
            allowed = [
                script.features(visit.frame, computing, visit.geometric, visit.text, neck)
                for computing in ranks_own_first(case, call, rank)
            ]
            assert_features(call, rank, neck, allowed, case)
            assert_position_encoding(call, rank, neck, script.position_encoding(neck))


def assert_answers_as_called(seen: Seen, target: Target) -> None:
    """Every answer holds what its call asked for: the frame's own detection, after NMS if any, and its features."""
    if seen.case.suppression is None:
        assert_own_detections(seen)
    else:
        assert_nms_as_one_process(seen)
    assert_own_features(seen, target)


def all_calls(seen: Seen) -> Iterable[tuple[RankSeen, Call]]:
    return ((rank, call) for rank in seen.ranks for call in rank.calls)


def chunk_numbers(frames: Iterable[int], case: Scan) -> set[int]:
    return {frame // case.chunk_size for frame in frames}


def resident_frames(rank: RankSeen, call: Call, case: Scan) -> frozenset[int]:
    """The frames that the buffer holds after a call.

    Raises:
        NotCovered: where it cannot be told what it holds.
    """
    if call.resident is not None:
        return call.resident
    if case.batch and case.frames > FRAMES_TOLD:
        raise NotCovered(f"boxes tell {FRAMES_TOLD} frames apart, and the clip has more: what is held is not known")
    if case.batch:
        raise NotCovered("the batched buffer keeps its chunks where no boxes are found, so what it holds is not known")
    raise NotCovered("the buffer holds no detections under the number of their frame, so what it keeps is not known")


def violation_by_collective(collective: Collective, rank: int, message: str, expected: str, got: str) -> Violation:
    """A violation by a collective of ``rank``, which says in which call it was issued."""
    call, frame = call_in(collective.during)
    return Violation(message, rank=rank, call=call, frame=frame, expected=expected, got=got)
