"""Whether what the buffer returns carries gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fixtures.ranks import Ranks, progress
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle import detection
from verify.target.naming import Target
from verify.video.detector import DETECTIONS, buffer_of
from verify.video.real import clip_of, prompt_of, real_detector
from verify.video.scan import Scan

#: For each frame in order, which detections carry gradient.
Carrying = tuple[Mapping[str, bool], ...]


def _scan_with_gradient(rank: int, world_size: int, target: Target, case: Scan) -> Carrying:
    with sam3_on_cpu():
        model = real_detector(target, case)
        clip = clip_of(case)
        prompt = prompt_of(clip)
        text = detection.encode_text(model, clip)
        buffer: dict[Any, Any] = {}
        seen = []
        with torch.enable_grad():
            for visit in case.calls():
                returned = buffer_of(model)(
                    backbone_out={"img_batch_all_stages": clip.img_batch, **text},
                    find_inputs=clip.find_inputs,
                    geometric_prompt=prompt,
                    frame_idx=visit.frame,
                    num_frames=case.frames,
                    multigpu_buffer=buffer,
                )
                answer = returned[0] if isinstance(returned, tuple) else returned
                seen.append({key: answer[key].requires_grad for key in DETECTIONS if key in answer})
                progress()
        return tuple(seen)


def observe_gradient(ranks: Ranks, target: Target, case: Scan) -> tuple[Carrying, ...]:
    """Scan a clip with gradient on; gives for each rank what of its answers carries gradient.

    Raises:
        RanksFailed: when a rank fails.
    """
    return tuple(result.value for result in ranks.run(_scan_with_gradient, case.world_size, target, case))
