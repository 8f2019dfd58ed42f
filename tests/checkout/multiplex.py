"""A detector with a batched buffer, which stands in for SAM 3.1's, and a video predictor that holds it."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from fixtures.forks.batched.upstream import LikeUpstream


class MultiplexDetector(LikeUpstream):
    @functools.wraps(LikeUpstream.forward_video_grounding_batched_multigpu)
    def forward_video_grounding_batched_multigpu(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward_video_grounding_batched_multigpu(*args, **kwargs)


class VideoModel(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector


class VideoPredictor:
    """No module itself: it holds one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.cuda().eval()
