"""The target's real detector at toy width, on a synthetic clip, and single-process detection with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

from fixtures.ranks.environment import environment_of_rank
from fixtures.ranks.single import in_single_process
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.synthetic.scripted_detector import with_prompts_before_embedding
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.device import device_here
from reference.oracle import detection
from verify.target.naming import Target
from verify.tensors.precision import computing_in
from verify.tensors.tolerance import perturbed
from verify.video.detector import detector, is_batched
from verify.video.scan import Scan
from verify.video.scripting import why_no_scripted_buffer


def lift_masks(model: Any) -> None:
    """Shift each of the detector's masks so that it covers half of the frame.

    Masks of random weights are nearly empty, and empty masks overlap with nothing: NMS would have nothing to do.
    """
    detect = model.forward_grounding

    def lifted(*args: Any, **kwargs: Any) -> dict[str, Any]:
        out = detect(*args, **kwargs)
        if (masks := out.get("pred_masks")) is not None:
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
    """The synthetic clip of a case with the real detector, without targets, on the device that it is run on."""
    from sam3.model.utils.misc import copy_data_to_device

    spec = ClipSpec(frames=case.frames, prompts=case.prompts, boxes=case.boxes, targets=False, seed=case.seed)
    clip = copy_data_to_device(make_clip(spec), device_here())
    for stage in clip.find_inputs:
        with_prompts_before_embedding(stage)
    return clip


def prompt_of(stage: Any) -> Any:
    """A frame's own box prompt; its points are none, and said to be none: SAM 3.1's geometry encoder asks for them."""
    from sam3.model.geometry_encoders import Prompt

    prompts, device = len(stage.text_ids), stage.input_boxes.device
    return Prompt(
        box_embeddings=stage.input_boxes,
        box_mask=stage.input_boxes_mask,
        box_labels=stage.input_boxes_label,
        point_embeddings=torch.zeros(0, prompts, 2, device=device),
        point_mask=torch.zeros(prompts, 0, dtype=torch.bool, device=device),
        point_labels=torch.zeros(0, prompts, dtype=torch.long, device=device),
    )


def inputs_of_clip(model: Any, clip: Any, listed: bool = False) -> Callable[[], dict[str, Any]]:
    """What a caller hands over with each call on a clip: images in a dictionary made anew, stages, a prompt.

    Args:
        listed: whether the images are in a list, as sam3's forward takes them of a loader, and not in one tensor.
    """
    text, prompt = detection.encode_text(model, clip), prompt_of(clip.find_inputs[0])
    images = list(clip.img_batch) if listed else clip.img_batch

    def inputs() -> dict[str, Any]:
        backbone_out = {"img_batch_all_stages": images, **text}
        return {"backbone_out": backbone_out, "find_inputs": clip.find_inputs, "geometric_prompt": prompt}

    return inputs


def single_process(target: Target, case: Scan, perturbation: int = 0) -> list[dict[str, torch.Tensor]]:
    """The reference for a case with the real detector: each frame detected alone, in a single process.

    Where it is compared with ranks on NCCL, that is one on a GPU, too; what it gives is on the CPU. Under the prompt
    that the target's buffer detects it under: the scan's, or in a batched buffer the frame's own.
    ``perturbation``: above 0, the seed by which each pixel is moved by one rounding step.
    """
    found: list[dict[str, torch.Tensor]] = in_single_process(_detected_alone, target, case, perturbation)
    return found


def _detected_alone(
    rank: int, world_size: int, target: Target, case: Scan, perturbation: int
) -> list[dict[str, torch.Tensor]]:
    return _detected(target, case, clip_of(case), perturbation)


def _detected(target: Target, case: Scan, clip: Any, perturbation: int) -> list[dict[str, torch.Tensor]]:
    with as_called(target), environment_of_rank(0, 1):
        model = real_detector(target, case)
        if perturbation:
            clip.img_batch = perturbed(clip.img_batch, perturbation, precision_of(target))
        stages = clip.find_inputs
        prompts = [prompt_of(stage if is_batched(target) else stages[0]) for stage in stages]
        return detection.detect_clip(model, clip, lambda frame: prompts[frame], case.suppression)


#: Texts of different lengths, of which a case has the first.
TEXTS = ("thing", "a thing that lies beside another of the same kind", "two small animals")


def single_process_of_texts(
    target: Target, case: Scan, turned: bool = False, perturbation: int = 0
) -> list[dict[str, torch.Tensor]]:
    """As ``single_process``, for ``TEXTS``; ``turned``: with their list in reverse, and their numbers with it."""
    found: list[dict[str, torch.Tensor]] = in_single_process(_detected_by_texts, target, case, turned, perturbation)
    return found


def _detected_by_texts(
    rank: int, world_size: int, target: Target, case: Scan, turned: bool, perturbation: int
) -> list[dict[str, torch.Tensor]]:
    clip, texts = clip_of(case), list(TEXTS[: case.prompts])
    clip.find_text_batch = texts[::-1] if turned else texts
    for stage in clip.find_inputs:
        stage.text_ids = len(texts) - 1 - stage.text_ids if turned else stage.text_ids
    return _detected(target, case, clip, perturbation)


@lru_cache(maxsize=8)
def makes_masks(target: Target) -> bool:
    """Whether the target's detector, built with its segmentation head, makes masks; one that fails is taken to."""
    try:
        return "pred_masks" in single_process(target, Scan(frames=1, world_size=1, gather=False))[0]
    except Exception:
        return True


@lru_cache(maxsize=8)
def has_tracker_neck(target: Target) -> bool:
    """Whether the target's model, built with its tracker neck on, gives features for a tracker."""
    return "tracker_fpn_0" in single_process(target, Scan(frames=1, world_size=1, gather=False))[0]


def _detects(target: Target, precision: torch.dtype) -> bool:
    """Whether the target's real detector detects a frame in a precision."""
    case = Scan(frames=1, world_size=1, gather=False)
    try:
        with sam3_on_cpu(), environment_of_rank(0, 1), computing_in(precision), torch.no_grad():
            clip = clip_of(case)
            prompt = prompt_of(clip.find_inputs[0])
            detection.detect_clip(real_detector(target, case), clip, lambda frame: prompt)
    except Exception:
        return False
    return True


@lru_cache(maxsize=8)
def precision_of(target: Target) -> torch.dtype:
    """How the target's callers run it: plain, or under bfloat16 autocast where it cannot run otherwise.

    SAM 3.1's do: a fused kernel of its ViT computes in bfloat16 whatever it is given, and the layer after it fails.
    """
    if not _detects(target, torch.float32) and _detects(target, torch.bfloat16):
        return torch.bfloat16
    return torch.float32


@contextmanager
def as_called(target: Target) -> Iterator[None]:
    """Run the target's detector as its callers do, on this machine: without gradient, in their precision."""
    with sam3_on_cpu(), computing_in(precision_of(target)):
        yield
