"""What every rank computed, stored, evicted, gathered and returned in a scan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from fixtures.ranks import Collective, Ranks, RanksFailed, Threads, during, progress
from fixtures.synthetic.script import Script
from fixtures.synthetic.scripted_detector import Detected
from reference.oracle import detection
from verify.buffer.memory import Watched, held_after, of_answer, watch_detector
from verify.engine.finding import call_in_words
from verify.engine.remembered import remembered
from verify.target.naming import Target
from verify.tensors.precision import computing_in
from verify.video.call import call_buffer, frames_kept
from verify.video.detector import DETECTIONS, is_batched
from verify.video.real import as_called, clip_of, inputs_of_clip, real_detector
from verify.video.scan import Scan, Visit
from verify.video.scripting import InputsOf, script_of, scripted


@dataclass(frozen=True)
class Call:
    """One call of the buffer on one rank."""

    number: int
    visit: Visit
    #: What the call returned, copied: a tensor a key.
    answer: Mapping[str, Any]
    #: Frames in the buffer after the call, or None where that cannot be told.
    resident: frozenset[int] | None
    #: Detections made during the call (scripted detector only).
    detected: tuple[Detected, ...]
    #: After the last call, frames whose answers are still alive somewhere though their chunks are not in the buffer.
    held: frozenset[int] = frozenset()
    #: The same of what the detector gave for frames (scripted detector only).
    output_held: frozenset[int] = frozenset()


@dataclass(frozen=True)
class RankSeen:
    rank: int
    calls: tuple[Call, ...]
    collectives: tuple[Collective, ...]


@dataclass(frozen=True)
class Seen:
    """A case as all its ranks saw it."""

    case: Scan
    ranks: tuple[RankSeen, ...]


Observe = Callable[[Scan], Seen]


class CallFailed(Exception):
    """The buffer raised; the message names the call and the frame."""


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor).clone(memory_format=torch.contiguous_format)
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value


def call_numbered(
    target: Target, model: Any, case: Scan, number: int, visit: Visit, inputs: Mapping[str, Any], buffer: dict[Any, Any]
) -> dict[str, Any]:
    """Make a case's call of a number, which is a visit.

    Raises:
        CallFailed: where the buffer raises.
    """
    name = call_in_words(number, visit.frame)
    try:
        with torch.no_grad(), during(name):
            return call_buffer(target, model, case.asked(number), visit, inputs, buffer)
    except Exception as error:
        raise CallFailed(f"{name}: {type(error).__name__}: {error}") from error


def copied(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with tensors of its own."""
    return {key: _copy(value) for key, value in answer.items()}


def _visit_all(
    target: Target, model: Any, case: Scan, inputs_of: InputsOf, calls: list[Detected], outputs: Watched
) -> tuple[Call, ...]:
    """Call the buffer for every visit of a case; ``outputs`` watches the detector."""
    buffers: dict[int, dict[Any, Any]] = {visit.buffer: {} for visit in case.calls()}
    answers = Watched()
    seen = []
    for number, visit in enumerate(case.calls()):
        buffer = buffers[visit.buffer]
        inputs = inputs_of(visit)
        before = len(calls)
        answer = call_numbered(target, model, case, number, visit, inputs, buffer)
        seen.append(
            Call(number, visit, copied(answer), frames_kept(target, buffer, case.frames), tuple(calls[before:]))
        )
        answers.watch([visit.frame], of_answer(answer))
        del answer
        progress()
    kept = [frames_kept(target, buffer, case.frames) for buffer in buffers.values()]
    if None in kept:
        return tuple(seen)
    resident = frozenset().union(*kept)  # type: ignore[arg-type]
    held, output_held = held_after(answers, outputs, case.chunk_size, resident)
    return (*seen[:-1], replace(seen[-1], held=held, output_held=output_held))


def scripted_scan(rank: int, world_size: int, target: Target, case: Scan) -> tuple[Call, ...]:
    """One rank's part of a case with the scripted detector."""
    detected: list[Detected] = []
    model, inputs_of = scripted(rank, target, case, detected)
    with computing_in(torch.bfloat16) if case.autocast else nullcontext():
        return _visit_all(target, model, case, inputs_of, detected, watch_detector(model, detected))


def real_scan(rank: int, world_size: int, target: Target, case: Scan) -> tuple[Call, ...]:
    """One rank's part of a case with the target's real detector at toy width, as its callers run it."""
    with as_called(target):
        model = real_detector(target, case)
        progress()
        inputs = inputs_of_clip(model, clip_of(case), case.listed)
        return _visit_all(target, model, case, lambda visit: inputs(), [], Watched())


def _scan_without_group(rank: int, world_size: int, target: Target, case: Scan) -> tuple[Call, ...]:
    dist.destroy_process_group()  # of this rank's thread
    return scripted_scan(rank, world_size, target, case)


#: Observations remembered of each group of ranks: the cases that checks with the same draws share, and those of the
#: checks that are made between them. With the profile *quick*, no case is observed a second time.
_MOST_KEPT = 256
#: Of each group of ranks by itself: the ranks of a job all remember the same, whatever one of them runs on threads.
_kept: WeakKeyDictionary[Ranks, OrderedDict[tuple[Target, Scan], Seen | RanksFailed]] = WeakKeyDictionary()


def observe_scripted(ranks: Ranks, target: Target, case: Scan) -> Seen:
    """Run a case with the scripted detector; what it showed is remembered, for other checks that draw it.

    Raises:
        RanksFailed: when a rank fails, dies or hangs.
    """

    def outcome() -> Seen | RanksFailed:
        try:
            return _observe(ranks, scripted_scan, target, case)
        except RanksFailed as failure:
            return failure

    seen: Seen = remembered(_kept.setdefault(ranks, OrderedDict()), (target, case), _MOST_KEPT, outcome)
    return seen


def observe_without_group(ranks: Ranks, target: Target, case: Scan) -> Seen:
    """Run a case of a single rank, a thread, with the scripted detector and no process group; raises as above."""
    return _observe(ranks, _scan_without_group, target, case)


def observe_real(ranks: Ranks, target: Target, case: Scan) -> Seen:
    """Run a case with the target's real detector; raises as ``observe_scripted`` does."""
    return _observe(ranks, real_scan, target, case)


def _observe(ranks: Ranks, scan: Callable[..., tuple[Call, ...]], target: Target, case: Scan) -> Seen:
    results = ranks.run(scan, case.world_size, target, case, ranks_per_node=case.ranks_per_node)
    return Seen(case, tuple(RankSeen(result.rank, result.value, result.collectives) for result in results))


@lru_cache(maxsize=4096)
def kept_by_nms(script: Script, suppression: detection.Suppression, frame: int) -> torch.Tensor:
    """Which of a frame's scripted detections [P, Q] a plain NMS keeps; prompts and ranks do not bear on it."""
    found = script.detection(frame, 0)
    return detection.kept_detections(found["pred_logits"], found["pred_masks"], suppression)


def expected_answer(case: Scan, visit: Visit, rank: int) -> dict[str, torch.Tensor]:
    """The scripted detector's answer for a visit, computed by ``rank``, after the case's NMS."""
    answer = script_of(case).detection(visit.frame, rank, visit.geometric, visit.text)
    asked = {key: answer[key][list(case.asked_texts)] if key in DETECTIONS else value for key, value in answer.items()}
    if case.suppression is not None:
        asked["pred_logits"] = detection.lower(asked["pred_logits"], expected_kept(case, visit))
    return asked


def expected_kept(case: Scan, visit: Visit) -> torch.Tensor:
    """Which detections [P, Q] of a visit's frame are left after the case's NMS."""
    assert case.suppression is not None
    return kept_by_nms(script_of(case), case.suppression, visit.frame)[list(case.asked_texts)]


@lru_cache(maxsize=8)
def why_nothing_is_shared(target: Target) -> str | None:
    """Say why there are no collectives to look at, or give None where there are, or may be.

    A batched buffer promises none. One that issues some all the same, on two ranks, is held to what holds of them.
    """
    if not is_batched(target):
        return None
    ranks = Threads()
    try:
        seen = observe_scripted(ranks, target, Scan(frames=4, world_size=2, batch=2))
    except RanksFailed:
        return None
    finally:
        ranks.close()
    if any(rank.collectives for rank in seen.ranks):
        return None
    return "a batched buffer shares nothing between ranks: each detects all frames"
