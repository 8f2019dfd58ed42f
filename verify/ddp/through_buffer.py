"""Whether what the buffer returns carries gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from fixtures.ranks import Ranks, RanksFailed, Threads, progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.target.naming import Target
from verify.video.call import call_buffer
from verify.video.detector import DETECTIONS, is_batched, why_no_buffer
from verify.video.real import clip_of, inputs_of_clip, real_detector
from verify.video.scan import Scan

#: For each frame in order, which detections carry gradient.
Carrying = tuple[Mapping[str, bool], ...]


def _scan_with_gradient(rank: int, world_size: int, target: Target, case: Scan) -> Carrying:
    with sam3_on_cpu():
        model = real_detector(target, case)
        clip = clip_of(case)
        inputs = inputs_of_clip(model, clip)
        buffer: dict[Any, Any] = {}
        seen = []
        with torch.enable_grad():
            for visit in case.calls():
                answer = call_buffer(target, model, replace(case, features=False), visit, inputs(), buffer)
                seen.append({key: answer[key].requires_grad for key in DETECTIONS if key in answer})
                progress()
        return tuple(seen)


def observe_gradient(ranks: Ranks, target: Target, case: Scan) -> tuple[Carrying, ...]:
    """Scan a clip with gradient on; gives for each rank what of its answers carries gradient.

    Raises:
        RanksFailed: when a rank fails.
    """
    return tuple(result.value for result in ranks.run(_scan_with_gradient, case.world_size, target, case))


@lru_cache(maxsize=8)
def why_no_gradient_through_buffer(target: Target) -> str | None:
    """Say why it cannot be told what carries gradient through a target's buffer, or give None where it can."""
    if reason := why_no_buffer(target):
        return reason
    ranks = Threads()
    try:
        ranks.run(
            _scan_with_gradient, 1, target, Scan(frames=2, world_size=1, gather=False, batch=2 * is_batched(target))
        )
    except RanksFailed as failure:
        return f"the detector does not run with gradients on: {failure.reason}"
    finally:
        ranks.close()
    return None
