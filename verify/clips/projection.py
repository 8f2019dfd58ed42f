"""A number made of a step's predictions, whose gradient is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def predictions(step: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The floating tensors among a step's outputs that predict something, by name."""
    return {
        name: step[name]
        for name in sorted(step)
        if name.startswith("pred_") and isinstance(step[name], torch.Tensor) and step[name].is_floating_point()
    }


def projection(step: Mapping[str, Any], seed: int) -> torch.Tensor | None:
    """A fixed random projection of a step's predictions that carry gradient, each by its size; None where none does.

    What another one carries does not bear on the weights of one.
    """
    generator = torch.Generator().manual_seed(seed)
    total = None
    for value in predictions(step).values():
        weights = torch.randn(value.shape, generator=generator).to(value)
        if value.requires_grad:
            part = (weights * value).sum() / max(1, value.numel()) ** 0.5
            total = part if total is None else total + part
    return total
