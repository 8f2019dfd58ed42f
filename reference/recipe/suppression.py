"""Mask NMS of one frame's detections, as the chunked buffer runs it before it gathers them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from sam3.perflib.nms import generic_nms, nms_masks

#: How far the logit of a detection is lowered that mask NMS removes.
REMOVED = 1e4


def suppressed(
    found: Mapping[str, torch.Tensor],
    prob_threshold: float | None,
    iou_threshold: float | None,
    use_iom: bool = False,
) -> torch.Tensor:
    """Give the logits [P, N, 1] with those lowered that mask NMS removes, prompt by prompt.

    Args:
        found: ``pred_logits`` [P, N, 1] and ``pred_masks`` [P, N, H, W] of P prompts.
        prob_threshold: score above which detections take part; the others are lowered, too.
        iou_threshold: overlap above which the detection of lower score is removed.
        use_iom: whether overlap is intersection over the smaller mask, and not over the union.

    Raises:
        ValueError: when a threshold or the masks are missing.
    """
    if prob_threshold is None or iou_threshold is None:
        raise ValueError("run_nms needs nms_prob_thresh and nms_iou_thresh")
    if "pred_masks" not in found:
        raise ValueError("run_nms needs masks: build the model with enable_segmentation=True")
    logits = found["pred_logits"]
    kept_of = _kept_by_iom if use_iom else nms_masks
    # Shared pixels are counted by a product of matrices, here and in SAM 3.1: autocast would round it to 8 bits.
    with torch.autocast(logits.device.type, enabled=False):
        keep = torch.stack(
            [
                kept_of(pred_probs=scores, pred_masks=masks, prob_threshold=prob_threshold, iou_threshold=iou_threshold)
                for scores, masks in zip(logits.squeeze(-1).sigmoid(), found["pred_masks"], strict=True)
            ]
        )
    return torch.where(keep.unsqueeze(-1), logits, logits - REMOVED)


def _kept_by_iom(
    pred_probs: torch.Tensor, pred_masks: torch.Tensor, prob_threshold: float, iou_threshold: float
) -> torch.Tensor:
    """Do as sam3's ``nms_masks`` with the other overlap, which not every version of sam3 has; masks may be empty.

    Args:
        pred_probs: scores [N].
        pred_masks: logits [N, H, W], inside where positive.

    Returns:
        Which detections are kept, [N].
    """
    candidates = (pred_probs > prob_threshold).nonzero().flatten()
    keep = torch.zeros_like(pred_probs, dtype=torch.bool)
    if len(candidates):
        inside = (pred_masks[candidates] > 0).flatten(1).float()
        areas = inside.sum(dim=1)
        smaller = torch.minimum(areas[:, None], areas[None, :]).clamp(min=1)
        overlap = inside @ inside.T / smaller
        keep[candidates[generic_nms(overlap, pred_probs[candidates], iou_threshold)]] = True
    return keep
