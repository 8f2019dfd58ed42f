"""What a target's configuration asks of what the Trainer does."""

from __future__ import annotations

from typing import Any

from verify.configuration.configured import configuration_of
from verify.target.naming import Target


def clipping_norm(target: Target) -> float | None:
    """The norm that sam3's clipper cuts the gradients' Euclidean norm to; None where there is none, or another kind."""
    clip: Any = configuration_of(target).trainer.optim.get("gradient_clip")
    if clip is None or not str(clip.get("_target_", "")).endswith("GradientClipper") or clip.get("norm_type", 2) != 2:
        return None
    return None if clip.get("max_norm") is None else float(clip.max_norm)


def has_schedules(target: Target) -> bool:
    """Whether the optimizer's options follow schedules, as those do that are put in their place here."""
    return configuration_of(target).trainer.optim.get("options") is not None


def shuffles(target: Target) -> bool:
    """Whether the configuration asks for the clips of each epoch in an order of their own."""
    return configuration_of(target).trainer.data.train.get("shuffle") is True
