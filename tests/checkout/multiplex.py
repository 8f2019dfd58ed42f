"""A detector with a batched buffer, which stands in for SAM 3.1's, and a video predictor that holds it."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from torch import nn

from fixtures.forks.batched.upstream import LikeUpstream


class MultiplexDetector(LikeUpstream):
    def forward_video_grounding_batched_multigpu(
        self,
        backbone_out: dict[str, Any],
        find_inputs: Sequence[Any],
        geometric_prompt: Any,
        frame_idx: int,
        num_frames: int,
        grounding_cache: MutableMapping[Any, Any],
        track_in_reverse: bool = False,
        return_sam2_backbone_feats: bool = False,
        run_nms: bool = False,
        nms_prob_thresh: float | None = None,
        nms_iou_thresh: float | None = None,
        nms_use_iom: bool = False,
        max_frame_num_to_track: int | None = None,
        propagate_in_video_start_frame_idx: int | None = None,
        feature_cache: Any = None,
        batch_size: int = 16,
    ) -> Any:
        return super().forward_video_grounding_batched_multigpu(
            backbone_out,
            find_inputs,
            geometric_prompt,
            frame_idx,
            num_frames,
            grounding_cache,
            track_in_reverse,
            return_sam2_backbone_feats,
            run_nms,
            nms_prob_thresh,
            nms_iou_thresh,
            nms_use_iom,
            max_frame_num_to_track,
            propagate_in_video_start_frame_idx,
            feature_cache,
            batch_size,
        )


class VideoModel(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector


class VideoPredictor:
    """No module itself: it holds one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.cuda().eval()
