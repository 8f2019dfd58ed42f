"""Building the corrected detector out of the parts that sam3's own builder assembles."""

from __future__ import annotations

import torch
from sam3 import model_builder as parts
from sam3.model.sam1_task_predictor import SAM3InteractiveImagePredictor
from torch import nn

from reference.data.vocabulary import default_vocabulary
from reference.recipe.autocast_kept import autocast_kept
from reference.recipe.checkpoint import load_checkpoint
from reference.recipe.initialise import initialise
from reference.recipe.model import Sam3ImageOnVideo
from reference.recipe.without_cuda import without_cuda

DEFAULT_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _matcher() -> nn.Module:
    """Make the matcher of sam3's own training; sam3 imports it where it is needed, for what it imports in turn."""
    from sam3.train.matcher import BinaryHungarianMatcherV2

    return BinaryHungarianMatcherV2(
        focal=True, cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, alpha=0.25, gamma=2, stable=False
    )


def build_sam3_image_video_model(
    bpe_path: str | None = None,
    device: str | torch.device = DEFAULT_DEVICE,
    eval_mode: bool = True,
    checkpoint_path: str | None = None,
    load_from_HF: bool = True,
    enable_segmentation: bool = True,
    enable_inst_interactivity: bool = False,
    compile: bool = False,
    async_all_gather: bool = True,
    gather_backbone_out: bool | None = None,
) -> Sam3ImageOnVideo:
    """Build SAM 3's detector for training on clips and for running over videos.

    SAM 3.1's fused MLPs stay fused in bfloat16 inference alone; else they compute in the precision given, and train.

    Args:
        bpe_path: the text encoder's vocabulary, by default ``reference.data.vocabulary.default_vocabulary``'s.
        device: any device of torch, by default the GPU where there is one; ``cpu`` also on a machine without CUDA.
        eval_mode: in evaluation mode and without a matcher; else in training mode with one.
        checkpoint_path: a checkpoint to load, see ``reference.recipe.checkpoint.load_checkpoint``.
        load_from_HF: download the released checkpoint when no path is given.
        enable_segmentation: with a segmentation head, which detection over video needs.
        enable_inst_interactivity: with a tracker neck and sam3's interactive predictor, which is to be called under
            autocast: that sam3 turns it on for the whole process when the predictor is made is undone.
        compile: compile what sam3's own builder compiles.
        async_all_gather: whether the buffer's gathers run beside the detection of the next chunk.
        gather_backbone_out: whether the buffer gathers tracker features; by default, where there is a tracker neck.

    Raises:
        ValueError, RuntimeError: when the checkpoint does not fit.
    """
    compile_mode = "default" if compile else None
    if bpe_path is None:
        bpe_path = default_vocabulary()
    with without_cuda():
        vision = parts._create_vision_backbone(
            compile_mode=compile_mode, enable_inst_interactivity=enable_inst_interactivity
        )
        predictor = None
        if enable_inst_interactivity:
            with autocast_kept():
                predictor = SAM3InteractiveImagePredictor(parts.build_tracker(apply_temporal_disambiguation=False))
        model = Sam3ImageOnVideo(
            backbone=parts._create_vl_backbone(vision, parts._create_text_encoder(bpe_path)),
            transformer=parts._create_sam3_transformer(),
            input_geometry_encoder=parts._create_geometry_encoder(),
            segmentation_head=parts._create_segmentation_head(compile_mode=compile_mode)
            if enable_segmentation
            else None,
            num_feature_levels=1,
            o2m_mask_predict=True,
            dot_prod_scoring=parts._create_dot_product_scoring(),
            use_instance_query=False,
            multimask_output=True,
            inst_interactive_predictor=predictor,
            matcher=None if eval_mode else _matcher(),
            async_all_gather=async_all_gather,
            gather_backbone_out=gather_backbone_out,
        )
    initialise(model)
    if checkpoint_path is None and load_from_HF:
        checkpoint_path = parts.download_ckpt_from_hf()
    if checkpoint_path is not None:
        load_checkpoint(model, checkpoint_path)
    return model.to(device).train(not eval_mode)
