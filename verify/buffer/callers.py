"""Callers that do more with a scan than make its calls: that watch what is theirs, change answers, or ask wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch

from fixtures.ranks import Ranks, progress
from fixtures.synthetic.scripted_detector import Detected
from verify.buffer.agreement import identical
from verify.buffer.observation import Call, RankSeen, Seen, call_numbered, copied
from verify.target.naming import Target
from verify.tensors.describe import describe_tensor
from verify.video.call import call_buffer
from verify.video.detector import DETECTIONS
from verify.video.scan import Scan
from verify.video.scripting import scripted

# What is the caller's


@dataclass(frozen=True)
class Change:
    """A value that is another than it was, by where it is, in words."""

    place: str
    before: str
    after: str


@dataclass(frozen=True)
class Watched:
    """A call of a caller that keeps its answer, and looks at it and at what it has handed over."""

    call: Call
    #: What the call changed of what was handed over with it.
    inputs: tuple[Change, ...]
    #: What has become another in the call's answer by the end of the scan.
    answer: tuple[Change, ...]


@dataclass(frozen=True)
class RankWatched:
    rank: RankSeen
    calls: tuple[Watched, ...]


def changed(
    seen: Iterable[RankWatched], of: Callable[[Watched], Iterable[Change]]
) -> Iterator[tuple[RankSeen, Call, Change]]:
    """All changes ``of`` a kind that ranks saw, each with the call that it is about."""
    return (
        (watching.rank, watched.call, change)
        for watching in seen
        for watched in watching.calls
        for change in of(watched)
    )


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """All values within containers, prompts and stages, by where they are; arrays of numbers as tensors."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        yield f"len({place})", len(value)
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}[{index}]")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield place, torch.from_numpy(value)
    elif isinstance(value, (torch.Tensor, bool, int, float, str, type(None))):
        yield place, value
    else:
        names = [field.name for field in fields(value)] if is_dataclass(value) else list(getattr(value, "__dict__", ()))
        for name in names:
            yield from _leaves(getattr(value, name, None), f"{place}.{name}")


def _snapshot(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of all values, by where they are."""
    return {
        place: value.detach().clone() if isinstance(value, torch.Tensor) else value
        for name, held in values.items()
        for place, value in _leaves(held, name)
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return identical(one, other)
    return type(one) is type(other) and one == other


def _in_words(value: Any) -> str:
    return describe_tensor(value) if isinstance(value, torch.Tensor) else repr(value)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """What was there before and is gone or another; what has been added is no change."""
    return tuple(
        Change(place, _in_words(value), _in_words(after[place]) if place in after else "gone")
        for place, value in before.items()
        if place not in after or not _same(value, after[place])
    )


def _watch(rank: int, world_size: int, target: Target, case: Scan) -> tuple[Watched, ...]:
    detected: list[Detected] = []
    model, inputs_of = scripted(rank, target, case, detected)
    buffer: dict[Any, Any] = {}
    made = []
    for number, visit in enumerate(case.calls()):
        inputs = inputs_of(visit)
        before = _snapshot(inputs)
        answer = call_numbered(target, model, case, number, visit, inputs, buffer)
        call = Call(number, visit, copied(answer), None, ())
        made.append((call, _changes(before, _snapshot(inputs)), answer, _snapshot({"answer": answer})))
        progress()
    return tuple(
        Watched(call, inputs, _changes(given, _snapshot({"answer": answer}))) for call, inputs, answer, given in made
    )


def observe_watched(ranks: Ranks, target: Target, case: Scan) -> tuple[RankWatched, ...]:
    """Run a case with the scripted detector, for a caller that keeps every answer as it was given.

    Raises:
        RanksFailed: when a rank fails, dies or hangs.
    """
    results = ranks.run(_watch, case.world_size, target, case)
    return tuple(
        RankWatched(RankSeen(result.rank, tuple(watched.call for watched in result.value), ()), result.value)
        for result in results
    )


# Answers changed by the caller


def _change_answers(rank: int, world_size: int, target: Target, case: Scan) -> tuple[Call, ...]:
    detected: list[Detected] = []
    model, inputs_of = scripted(rank, target, case, detected)
    buffer: dict[Any, Any] = {}
    seen = []
    for number, visit in enumerate(case.calls()):
        answer = call_numbered(target, model, case, number, visit, inputs_of(visit), buffer)
        seen.append(Call(number, visit, copied(answer), None, ()))
        for key in DETECTIONS:
            if isinstance(answer.get(key), torch.Tensor):
                answer[key].zero_()
        progress()
    return tuple(seen)


def observe_changed(ranks: Ranks, target: Target, case: Scan) -> Seen:
    """Run a case for a caller that sets each answer's detections to zero, in place; raises as ``observe_watched``."""
    results = ranks.run(_change_answers, case.world_size, target, case)
    return Seen(case, tuple(RankSeen(result.rank, result.value, ()) for result in results))


# NMS without thresholds

#: Which of the two thresholds are given.
ASKED_WITHOUT = {
    "no threshold": (),
    "no overlap threshold": ("nms_prob_thresh",),
    "no probability threshold": ("nms_iou_thresh",),
}


def _ask_without(rank: int, world_size: int, target: Target, case: Scan) -> tuple[str, ...]:
    model, inputs_of = scripted(rank, target, case, [])
    (visit, *_) = case.calls()
    answered = []
    for what, given in ASKED_WITHOUT.items():
        asked = {"run_nms": True, **dict.fromkeys(given, 0.5)}
        try:
            with torch.no_grad():
                call_buffer(target, model, case, visit, inputs_of(visit), {}, asked)
            answered.append(what)
        except Exception:
            continue  # whatever the exception, the caller is told
    return tuple(answered)


def observe_unasked(ranks: Ranks, target: Target, case: Scan) -> tuple[tuple[str, ...], ...]:
    """Ask for NMS without its thresholds at a case's first visit; give, a rank, the ways that were answered.

    Raises as ``observe_watched``.
    """
    return tuple(result.value for result in ranks.run(_ask_without, case.world_size, target, case))
