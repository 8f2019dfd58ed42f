"""The image backbone's MLP, its first half computed by a kernel for inference."""

from __future__ import annotations

import torch
from sam3.perflib.fused import addmm_act
from timm.layers import Mlp


class FusedMlp(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop2(self.fc2(addmm_act(type(self.act), self.fc1, x)))
