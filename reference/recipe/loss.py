"""sam3's training loss: as the recipe has it, and as clips of any length on any number of ranks need it.

Two settings decide how the loss of a clip comes about.

=========================  =========================================  =======================================
setting                    the recipe                                 for clips
=========================  =========================================  =======================================
``normalize_by_stage_num`` False: the losses of frames are summed,    True: averaged over the frames, so that
                           so a clip twice as long weighs twice as    the scale does not depend on the length
                           much against clipping and weight decay
``normalization``          "global": an all-reduce in each frame;     "local": by the number of boxes on this
                           ranks whose clips differ in length meet    rank; no collective
                           in different collectives and hang or die
=========================  =========================================  =======================================
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sam3.train.loss import loss_fns
from sam3.train.loss.sam3_loss import Sam3LossWrapper
from sam3.train.matcher import BinaryHungarianMatcherV2, BinaryOneToManyMatcher

_focal = loss_fns.sigmoid_focal_loss
_lock = threading.Lock()
_users = 0


def _focal_where_it_runs(inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if not inputs.is_cuda:
        kwargs["triton"] = False
    return _focal(inputs, *args, **kwargs)


@contextmanager
def focal_on_cpu() -> Iterator[None]:
    """Let sam3's losses run on the CPU: their focal loss launches a Triton kernel unless told not to.

    The losses do not pass the choice on, so the name they call is replaced as long as any thread is inside.
    """
    global _users
    with _lock:
        _users += 1
        loss_fns.sigmoid_focal_loss = _focal_where_it_runs
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                loss_fns.sigmoid_focal_loss = _focal


class LossOnAnyDevice(Sam3LossWrapper):
    """sam3's loss, on the CPU too."""

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Call the focal loss's own branch without Triton where there is no GPU for it."""
        with focal_on_cpu():
            return super().forward(*args, **kwargs)


def _loss(masks: bool, semantic: bool, **settings: Any) -> Sam3LossWrapper:
    """Build the loss of sam3's fine-tuning configuration, with its weights."""
    finding = [
        loss_fns.Boxes(weight_dict={"loss_bbox": 5.0, "loss_giou": 2.0}),
        loss_fns.IABCEMdetr(
            weak_loss=False,
            weight_dict={"loss_ce": 20.0, "presence_loss": 20.0},
            pos_weight=10.0,
            alpha=0.25,
            gamma=2,
            use_presence=True,
            pos_focal=False,
            pad_n_queries=200,
            pad_scale_pos=1.0,
        ),
    ]
    if masks:
        finding.append(
            loss_fns.Masks(
                focal_alpha=0.25,
                focal_gamma=2.0,
                weight_dict={"loss_mask": 200.0, "loss_dice": 10.0},
                compute_aux=False,
            )
        )
    semantic_loss = loss_fns.SemanticSegCriterion(
        presence_head=True,
        presence_loss=False,
        focal=True,
        focal_alpha=0.6,
        focal_gamma=2.0,
        downsample=False,
        weight_dict={"loss_semantic_seg": 20.0, "loss_semantic_presence": 1.0, "loss_semantic_dice": 30.0},
    )
    return LossOnAnyDevice(
        loss_fns_find=torch.nn.ModuleList(finding),
        matcher=BinaryHungarianMatcherV2(
            focal=True, cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, alpha=0.25, gamma=2, stable=False
        ),
        o2m_matcher=BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
        o2m_weight=2.0,
        use_o2m_matcher_on_o2m_aux=False,
        loss_fn_semantic_seg=semantic_loss if semantic else None,
        scale_by_find_batch_size=True,
        **settings,
    )


def recipe_loss(masks: bool = False, semantic: bool = False) -> Sam3LossWrapper:
    """Build the loss with the recipe's settings; it needs an initialised process group.

    Args:
        masks: with the loss on instance masks, which needs a segmentation head and targets with masks.
        semantic: with the loss on the semantic mask, which needs the same.
    """
    return _loss(masks, semantic, normalization="global", normalize_by_stage_num=False)


def clip_loss(masks: bool = False, semantic: bool = False) -> Sam3LossWrapper:
    """Build the loss for clips: averaged over their frames, no collective; arguments as for ``recipe_loss``."""
    return _loss(masks, semantic, normalization="local", normalize_by_stage_num=True)
