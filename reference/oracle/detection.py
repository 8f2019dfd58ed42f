"""Single-process detection of a clip, frame by frame: what a buffer over several ranks has to deliver.

Each frame is detected alone, by the target's own ``forward_grounding`` and with a dictionary of its own, so that
nothing computed for one frame can reach another. The mask NMS is a plain one that shares no code with sam3's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: By how much the logit of a detection that NMS removes is lowered.
LOWERED_BY = 1e4
#: A logit below this stands for a detection that NMS has removed: how low is not the point.
SUPPRESSED = -1e3
#: Levels of tracker features that a buffer gathers.
TRACKER_LEVELS = 3
#: Necks beside the detector's own, by what their features are called here: the name of their output.
_NECKS = {"tracker": "sam2_backbone_out", "interactive": "interactive"}
_DETECTIONS = ("pred_logits", "pred_boxes", "pred_boxes_xyxy", "pred_masks")


@dataclass(frozen=True)
class Suppression:
    """Thresholds of a mask NMS."""

    #: Detections take part where their probability is strictly above this.
    probability: float
    #: A detection is removed where its overlap with a better one that is kept is strictly above this.
    iou: float
    #: Measure overlap by intersection over the smaller mask instead of over the union.
    use_iom: bool = False


def overlap(first: Tensor, second: Tensor, use_iom: bool = False) -> float:
    """Give the overlap of two boolean masks of the same shape: intersection over union or over the smaller mask.

    An overlap with nothing to divide by, of empty masks, is 0.
    """
    shared = int((first & second).sum())
    whole = min(int(first.sum()), int(second.sum())) if use_iom else int((first | second).sum())
    return shared / whole if whole else 0.0


def mask_nms(
    probabilities: Tensor, masks: Tensor, probability_threshold: float, iou_threshold: float, use_iom: bool = False
) -> Tensor:
    """Tell which detections of one frame and prompt a greedy mask NMS keeps.

    Candidates are the detections strictly above the probability threshold. The best comes first, of equals the one with
    the lower index, and each is kept unless its overlap with one kept before it is strictly above the other threshold.

    Args:
        probabilities: ``[N]``; compared with the threshold in their own precision.
        masks: ``[N, H, W]`` logits; a pixel is inside where its logit is positive.

    Returns:
        ``[N]`` boolean, on the device of the probabilities.

    Raises:
        ValueError: where there is not one mask for each probability.
    """
    if probabilities.dim() != 1 or masks.dim() != 3 or len(probabilities) != len(masks):
        raise ValueError(
            f"mask NMS takes probabilities [N] and masks [N, H, W], not {list(probabilities.shape)} and "
            f"{list(masks.shape)}"
        )
    inside = (masks > 0).cpu()
    scores = probabilities.tolist()
    candidates = (probabilities > probability_threshold).nonzero().flatten().tolist()
    kept: list[int] = []
    for index in sorted(candidates, key=lambda candidate: (-scores[candidate], candidate)):
        if all(overlap(inside[index], inside[better], use_iom) <= iou_threshold for better in kept):
            kept.append(index)
    result = torch.zeros(len(scores), dtype=torch.bool, device=probabilities.device)
    result[kept] = True
    return result


def kept_detections(logits: Tensor, masks: Tensor, suppression: Suppression) -> Tensor:
    """Run the mask NMS for each prompt by itself.

    Args:
        logits: ``[P, Q, 1]`` for P prompts and Q queries; their sigmoid is the probability.
        masks: ``[P, Q, H, W]`` logits.

    Returns:
        ``[P, Q]`` boolean.
    """
    return torch.stack(
        [
            mask_nms(of_prompt, drawn, suppression.probability, suppression.iou, suppression.use_iom)
            for of_prompt, drawn in zip(logits.squeeze(-1).sigmoid(), masks, strict=True)
        ]
    )


def lower(logits: Tensor, kept: Tensor) -> Tensor:
    """Give ``logits`` ``[P, Q, 1]`` with those not in ``kept`` ``[P, Q]`` lowered, the kept ones bit for bit."""
    return torch.where(kept.unsqueeze(-1), logits, logits - LOWERED_BY)


def suppressed(detections: Mapping[str, Tensor], suppression: Suppression) -> dict[str, Tensor]:
    """Give a frame's detections after NMS: all as before, but the logits of removed detections are lowered.

    Raises:
        ValueError: where there are no masks to compare.
    """
    if "pred_masks" not in detections:
        raise ValueError("mask NMS needs masks, and this detector has no segmentation head")
    kept = kept_detections(detections["pred_logits"], detections["pred_masks"], suppression)
    return {**detections, "pred_logits": lower(detections["pred_logits"], kept)}


def encode_text(model: Any, batch: Any) -> dict[str, Any]:
    """Give the text features of a batch, which all its frames share."""
    with torch.no_grad():
        features = model.backbone.forward_text(batch.find_text_batch, device=next(model.parameters()).device)
    return dict(features)


def detect_frame(
    model: Any,
    images: Any,
    text: Mapping[str, Any],
    find_input: Any,
    geometric_prompt: Any,
    suppression: Suppression | None = None,
) -> dict[str, Tensor]:
    """Detect one frame, without gradient.

    Args:
        model: a detector in evaluation mode, with sam3's ``forward_grounding``.
        images: ``[frames, 3, H, W]`` images of the whole clip; ``find_input.img_ids`` says which is encoded.
        text: features of the prompts, from ``encode_text``.
        find_input: the frame's ``FindStage``, with P prompts.
        geometric_prompt: the frame's ``Prompt``.
        suppression: thresholds of the mask NMS; none is run without.

    Returns:
        Tensors of the caller's own: ``pred_logits`` ``[P, Q, 1]``, ``pred_boxes`` (normalised centre and size) and
        ``pred_boxes_xyxy`` ``[P, Q, 4]``; with a segmentation head ``pred_masks`` ``[P, Q, h, w]`` logits; with a
        tracker neck ``tracker_fpn_0`` to ``_2`` and their position encodings ``tracker_pos_enc_0`` to ``_2``,
        ``[1, channels, h, w]`` in the detector's precision; with an interactive neck the same of ``interactive_…``.

    Raises:
        ValueError: where the model is in training mode, or NMS is asked for and there are no masks.
    """
    if model.training:
        raise ValueError("detection needs a model in evaluation mode: training also matches targets, and has none here")
    with torch.no_grad():
        out = model.forward_grounding(
            backbone_out={"img_batch_all_stages": images, **text},  # fresh: the detector may change it
            find_input=find_input,
            find_target=None,
            geometric_prompt=geometric_prompt,
        )
    found = {name: out[name] for name in _DETECTIONS if name in out}
    for neck, name in _NECKS.items():
        features = out["prev_encoder_out"]["backbone_out"].get(name)
        if features is not None:
            for level in range(TRACKER_LEVELS):
                values = features["backbone_fpn"][level]
                found[f"{neck}_fpn_{level}"] = getattr(values, "tensors", values)  # SAM 3.1 has a NestedTensor there
                found[f"{neck}_pos_enc_{level}"] = features["vision_pos_enc"][level]
    detections = {name: tensor.detach().clone() for name, tensor in found.items()}
    return detections if suppression is None else suppressed(detections, suppression)


def detect_clip(
    model: Any, batch: Any, geometric_prompt_for: Callable[[int], Any], suppression: Suppression | None = None
) -> list[dict[str, Tensor]]:
    """Detect every frame of a clip, each on its own, in order of time.

    Args:
        model: as for ``detect_frame``.
        batch: a ``BatchedDatapoint`` of one clip; frame t is ``batch.find_inputs[t]``.
        geometric_prompt_for: gives the ``Prompt`` of a frame number; called once a frame.
        suppression: as for ``detect_frame``.

    Returns:
        For each frame what ``detect_frame`` gives.
    """
    text = encode_text(model, batch)
    return [
        detect_frame(model, batch.img_batch, text, find_input, geometric_prompt_for(frame), suppression)
        for frame, find_input in enumerate(batch.find_inputs)
    ]
