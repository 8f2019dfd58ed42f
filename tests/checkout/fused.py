"""A kernel for inference: activation and linear layer in one, in bfloat16, on weights that are detached."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def addmm_act(activation: Any, linear: nn.Linear, mat1: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled():
        raise ValueError("this kernel is for inference: turn gradients off")
    weight, bias = (part.detach().to(torch.bfloat16) for part in (linear.weight, linear.bias))
    summed = nn.functional.linear(mat1.to(torch.bfloat16), weight, bias)
    return nn.functional.gelu(summed) if activation in (nn.GELU, nn.functional.gelu) else nn.functional.relu(summed)
