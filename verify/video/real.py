"""The target's real detector at toy width, on a synthetic clip, and single-process detection with it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from fixtures.ranks.environment import environment_of_rank
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle import detection
from verify.target.naming import Target
from verify.video.detector import detector
from verify.video.scan import Scan
from verify.video.scripting import why_no_scripted_buffer


def lift_masks(model: Any) -> None:
    """Shift each of the detector's masks so that it covers half of the frame.

    Masks of random weights are nearly empty, and empty masks overlap with nothing: NMS would have nothing to do.
    """
    detect = model.forward_grounding

    def lifted(*args: Any, **kwargs: Any) -> dict[str, Any]:
        out = detect(*args, **kwargs)
        masks = out["pred_masks"]
        out["pred_masks"] = masks - masks.flatten(2).median(dim=-1).values[:, :, None, None]
        return out

    object.__setattr__(model, "forward_grounding", lifted)


def real_detector(target: Target, case: Scan) -> Any:
    """The target's real detector in evaluation mode; with NMS, where it can be, with masks that overlap."""
    model = detector(target, case).eval()
    if case.suppression is not None and why_no_scripted_buffer(target) is None:
        lift_masks(model)
    return model


def clip_of(case: Scan) -> Any:
    """The synthetic clip of a case with the real detector, without targets."""
    return make_clip(
        ClipSpec(frames=case.frames, prompts=case.prompts, boxes=case.boxes, targets=False, seed=case.seed)
    )


def prompt_of(clip: Any) -> Any:
    """The box prompt of a clip's first frame, which a scan gives with every call."""
    from sam3.model.geometry_encoders import Prompt

    first = clip.find_inputs[0]
    return Prompt(box_embeddings=first.input_boxes, box_mask=first.input_boxes_mask, box_labels=first.input_boxes_label)


def single_process(target: Target, case: Scan) -> list[dict[str, torch.Tensor]]:
    """The reference for a case with the real detector: each frame detected alone, in this process."""
    with sam3_on_cpu(), environment_of_rank(0, 1):
        model = real_detector(target, case)
        clip = clip_of(case)
        prompt = prompt_of(clip)
        return detection.detect_clip(model, clip, lambda frame: prompt, case.suppression)


@lru_cache(maxsize=8)
def has_tracker_neck(target: Target) -> bool:
    """Whether the target's model, built with its tracker neck on, gives features for a tracker."""
    return "tracker_fpn_0" in single_process(target, Scan(frames=1, world_size=1, gather=False))[0]
