"""Pictures of a scan: what the schedule promises beside what was seen, call by call, and how many frames were held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeGuard

import torch

from fixtures.synthetic.script import FRAMES_TOLD, identify
from reference.oracle import schedule
from verify.buffer.observation import Call, RankSeen, Seen
from verify.engine.picture import SEQUENCE, Picture, cut, mismatch_in_words, sequences, window
from verify.target.naming import Target
from verify.video.scan import Scan

#: The most calls and ranks that a picture shows; of more, those around the first difference.
CALLS, RANKS = 12, 4
#: Calls that are shown before the first difference.
_BEFORE = 4
#: Chunks of a scan that shows most, of those that pass.
_TELLING_CHUNKS = 3


@dataclass(frozen=True)
class Difference:
    """The first place, in order of time, where a scan is not what the schedule promises."""

    #: "answered", "detected" or "held".
    what: str
    rank: int
    call: int
    promised: str
    seen: str

    def in_words(self) -> str:
        return (
            f"The first difference is in call {self.call} on rank {self.rank}: {self.what} {self.seen}, "
            f"where {self.promised} is promised."
        )


def shows(case: Scan) -> float:
    """How much a scan shows: a few chunks, some ranks, from the clip's beginning, all of it in the picture."""
    chunks = -(-case.frames // case.chunk_size)
    missing = 4 * abs(chunks - _TELLING_CHUNKS) + 2 * abs(case.world_size - RANKS) + 4 * max(0, case.world_size - RANKS)
    missing += max(0, len(case.calls()) - CALLS) + 3 * (len(case.calls()) < case.frames) + case.reverse
    return -float(missing + 20 * (case.visits is not None))


def held_for_long(case: Scan) -> float:
    """How much a scan shows of what is held: the longer the more, in chunks that are not too small."""
    return float(len(case.calls()) + 4 * min(case.chunk_size, 4))


def _frames(frames: Iterable[int]) -> str:
    listed = sorted(frames)
    return f"frame{'s' * (len(listed) != 1)} {', '.join(map(str, listed))}" if listed else "no frame"


def _delivered(call: Call) -> int | None:
    """The frame that the answer's boxes are of, None where they are nobody's."""
    origin = identify("pred_boxes", torch.as_tensor(call.answer.get("pred_boxes", ())))
    return None if origin is None else origin.frame


def promised_detections(case: Scan, rank: int) -> list[list[int]]:
    """The frames that a rank is to detect in each call, padding left out; none for visits out of order."""
    if case.visits is not None:
        return [[] for _ in case.calls()]
    if case.batch:
        return [[frame for chunk in step.built for frame in chunk] for step in case.steps()]
    return [
        [chunk[0] + rank for chunk in step.built if not schedule.is_padding(chunk[0], rank, case.frames)]
        for step in case.steps()
    ]


def padding(case: Scan, rank: int) -> list[list[int]]:
    """The frames that a rank past the clip's end may detect again in each call, or leave out."""
    if case.visits is not None or case.batch:
        return [[] for _ in case.calls()]
    return [
        [case.frames - 1 for chunk in step.built if schedule.is_padding(chunk[0], rank, case.frames)]
        for step in case.steps()
    ]


def _first_answered(case: Scan, rank: RankSeen) -> Difference | None:
    for call in rank.calls:
        got = _delivered(call)
        if got != call.visit.frame:
            words = "what is no detection" if got is None else f"frame {got}"
            return Difference("answered", rank.rank, call.number, f"frame {call.visit.frame}", words)
    return None


def _first_detected(case: Scan, rank: RankSeen) -> Difference | None:
    """Where a rank detects another frame than is next in its share, with padding or without."""
    made = [(call.number, found.frame) for call in rank.calls for found in call.detected]
    frames = [frame for _, frame in made]
    if case.batch:
        for at, (number, frame) in enumerate(made):
            if frame in frames[:at]:
                return Difference("detected", rank.rank, number, f"frame {frame} once", f"frame {frame} again")
        return None
    promised = [frame for call in promised_detections(case, rank.rank) for frame in call]
    padded = list(schedule.share(case.steps(), rank.rank, case.world_size, case.frames))
    if frames in (promised, padded):
        return None
    right = padded if frames[: len(padded)] == padded or len(frames) >= len(padded) else promised
    for at, (expected, got) in enumerate(zip_longest(right, frames)):
        if expected != got:
            number = made[at][0] if at < len(made) else _call_of(case, rank.rank, expected)
            words = [("nothing" if frame is None else f"frame {frame}") for frame in (expected, got)]
            return Difference("detected", rank.rank, number, *words)
    return None


def _call_of(case: Scan, rank: int, frame: int | None) -> int:
    """The call in which a rank is to detect a frame; the last one where that is none."""
    calls = promised_detections(case, rank)
    return next((number for number, frames in enumerate(calls) if frame in frames), len(calls) - 1)


def _first_held(case: Scan, rank: RankSeen) -> Difference | None:
    steps = case.steps()
    for call in rank.calls:
        step, held = steps[call.number], call.resident
        if held is None:
            continue
        visited = {other.frame for other in steps}
        more = held - step.resident
        fewer = step.resident & (visited | set(step.prefetched)) - held
        if case.batch:  # a batch may be detected in parts, and the next one ahead of need
            left = {frame for earlier in steps[: call.number] for frame in earlier.chunk} - set(step.chunk)
            chunks = {frame // case.chunk_size for frame in held}
            more = more if len(chunks) > (1 if call.number == len(steps) - 1 else 2) else held & left
            detected = {found.frame for earlier in rank.calls[: call.number + 1] for found in earlier.detected}
            fewer &= detected & {later.frame for later in steps[call.number + 1 :]}
        if more or fewer:
            return Difference("held", rank.rank, call.number, _frames(step.resident), _frames(held))
    return None


def _in_order(differences: Iterable[Difference | None]) -> Difference | None:
    order = ("detected", "answered", "held")
    found = [difference for difference in differences if difference is not None]
    return min(found, key=lambda item: (item.call, item.rank, order.index(item.what)), default=None)


def first_difference(seen: Seen) -> Difference | None:
    """The first difference of a scan from its schedule; out of order, of answers from what was asked."""
    compared = [_first_answered] if seen.case.visits is not None else [_first_answered, _first_detected, _first_held]
    return _in_order(compare(seen.case, rank) for rank in seen.ranks for compare in compared)


def _scan_in_words(case: Scan) -> str:
    order = (
        "in the order that the calls give" if case.visits is not None else "backwards" if case.reverse else "forwards"
    )
    size = f"in batches of {case.batch}" if case.batch else f"in chunks of {case.world_size}"
    ranks = f"{case.world_size} rank{'s' * (case.world_size > 1)}"
    return f"A clip of {case.frames} frame{'s' * (case.frames > 1)} is scanned {order} by {ranks}, {size}."


def schedule_picture(seen: Seen) -> Picture:
    """Who detected which frame in which call, what was answered and what the buffer held, promised beside seen."""
    case, difference = seen.case, first_difference(seen)
    begin, end = window(len(case.calls()), difference.call if difference else None, CALLS, _BEFORE)
    first, last = window(len(seen.ranks), difference.rank if difference else None, RANKS, 1)
    ranks = seen.ranks[first:last]
    holder = seen.ranks[difference.rank if difference else 0]
    steps = case.steps() if case.visits is None else None
    held = [call.resident for call in holder.calls[begin:end]]
    told = steps is not None and any(frames is not None for frames in held)
    data_of_ranks = [_rank_data(case, rank, begin, end) for rank in ranks]
    data = {
        "first_call": begin,
        "calls": [visit.frame for visit in case.calls()[begin:end]],
        "ranks": data_of_ranks,
        "held": {
            "rank": holder.rank,
            "promised": [sorted(step.resident) for step in steps[begin:end]] if steps else [],
            "seen": [None if frames is None else sorted(frames) for frames in held],
        }
        if told
        else None,
        "difference": None
        if difference is None
        else {
            "what": difference.what,
            "rank": difference.rank,
            "call": difference.call,
            "promised": difference.promised,
            "seen": difference.seen,
        },
    }
    ends = difference.in_words() if difference else "What was seen is what is promised, in every call on every rank."
    padded = any(frames for rank in data_of_ranks for frames in rank["padding"])
    if padded:
        ends += " In brackets is padding, which a rank past the clip's end may detect or leave out."
    left_out = cut(len(ranks), len(seen.ranks), "ranks") + cut(end - begin, len(case.calls()), "calls")
    description = f"{_scan_in_words(case)} {ends}{left_out}"
    return Picture("schedule", "The schedule, promised and seen", description, data)


def _rank_data(case: Scan, rank: RankSeen, begin: int, end: int) -> dict[str, Any]:
    calls = rank.calls[begin:end]
    return {
        "rank": rank.rank,
        "promised": promised_detections(case, rank.rank)[begin:end] if case.visits is None else None,
        "padding": padding(case, rank.rank)[begin:end],
        "seen": [[found.frame for found in call.detected] for call in calls],
        "answered": [_delivered(call) for call in calls],
    }


def residency_picture(seen: Seen) -> Picture | None:
    """How many frames the buffer held after each call, on the rank that held most; None where that is not known."""
    case = seen.case
    if case.visits is not None:
        return None
    counts = {
        rank.rank: [None if call.resident is None else len(call.resident) for call in rank.calls] for rank in seen.ranks
    }
    known = {rank: held for rank, held in counts.items() if any(held) and None not in held}
    if not known:
        return None
    difference = _in_order(_first_held(case, rank) for rank in seen.ranks)
    rank = difference.rank if difference else max(known, key=lambda rank: sum(count or 0 for count in known[rank]))
    if rank not in known:
        return None
    promised = [len(step.resident) for step in case.steps()]
    data = {
        "across": "call",
        "up": "frames in the buffer after the call",
        "whole": True,
        "steps": True,
        "lines": [{"name": "promised", "values": promised}, {"name": f"seen on rank {rank}", "values": known[rank]}],
        "mark": None if difference is None else {"at": difference.call, "line": 1, "text": "first difference"},
    }
    most = max(count or 0 for count in known[rank])
    ends = difference.in_words() if difference else "After every call that is what is promised."
    description = (
        f"{_scan_in_words(case)} Rank {rank} holds {most} frames at most, {known[rank][-1]} after the last call. "
        f"Promised are {max(promised)} at most, and {promised[-1]} after the last. {ends}"
    )
    return Picture("lines", "Frames in the buffer", description, data)


def collectives_pictures(case: Scan, seen: Any, target: Target) -> tuple[Picture, ...]:
    """What each rank of a scan issued, in order, with the first collective that is not the same on all."""
    if not isinstance(seen, Seen):
        return ()
    shared = [[one for one in rank.collectives if one.operation not in ("send", "recv")] for rank in seen.ranks]
    data = sequences(
        [[one.describe() for one in of_rank] for of_rank in shared],
        [[one.during for one in of_rank] for of_rank in shared],
    )
    ends = mismatch_in_words(data)
    counts = ", ".join(f"{len(of_rank)} on rank {rank}" for rank, of_rank in enumerate(shared))
    shown = cut(min(SEQUENCE, data["of"]), data["of"], "collectives")
    description = f"{_scan_in_words(seen.case)} Collectives issued: {counts}. {ends}{shown}"
    return (Picture("sequences", "Collectives, as each rank issued them", description, data),)


def _tells_frames(seen: Any) -> TypeGuard[Seen]:
    """Whether a scan was seen whose detections say which frame they are of: of a long clip's they do not."""
    return isinstance(seen, Seen) and seen.case.frames <= FRAMES_TOLD


def scan_pictures(case: Scan, seen: Any, target: Target) -> tuple[Picture, ...]:
    """The schedule of a scan."""
    return (schedule_picture(seen),) if _tells_frames(seen) else ()


def differing_scan_pictures(case: Scan, seen: Any, target: Target) -> tuple[Picture, ...]:
    """The schedule of a scan that differs from it; of one that does not, what a check found lies elsewhere."""
    return scan_pictures(case, seen, target) if _tells_frames(seen) and first_difference(seen) else ()


def held_pictures(case: Scan, seen: Any, target: Target) -> tuple[Picture, ...]:
    """How many frames a scan held; where that differs from the schedule, the schedule, too."""
    if not _tells_frames(seen):
        return ()
    held = residency_picture(seen)
    differs = seen.case.visits is None and any(_first_held(seen.case, rank) for rank in seen.ranks)
    return (*((held,) if held else ()), *((schedule_picture(seen),) if differs else ()))
