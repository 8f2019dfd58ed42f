"""Gradients as ranks send them: copies without their zeros, digests, and names by part of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Gradient:
    """A copy of a gradient to be sent: where most of it is zero (of a vocabulary, say), what is not."""

    shape: torch.Size
    values: torch.Tensor
    #: Where the values are in the flattened gradient; None: all of it.
    places: torch.Tensor | None = None

    def to_dense(self) -> torch.Tensor:
        if self.places is None:
            return self.values.view(self.shape)
        dense = torch.zeros(self.shape.numel(), dtype=self.values.dtype)
        dense[self.places] = self.values
        return dense.view(self.shape)


Gradients = Mapping[str, Gradient | None]


def digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=8).hexdigest()


def digests(model: nn.Module) -> dict[str, str]:
    return {name: digest(parameter) for name, parameter in model.named_parameters()}


def _copied(tensor: torch.Tensor | None) -> Gradient | None:
    if tensor is None:
        return None
    flat = tensor.detach().cpu().flatten()
    if flat.count_nonzero() * 8 >= flat.numel():
        return Gradient(tensor.shape, flat.clone())
    places = flat.nonzero().squeeze(1)
    return Gradient(tensor.shape, flat[places], places)


def copied_gradients(model: nn.Module) -> dict[str, Gradient | None]:
    return {name: _copied(parameter.grad) for name, parameter in model.named_parameters() if parameter.requires_grad}


def dense(gradients: Gradients) -> dict[str, torch.Tensor]:
    return {name: gradient.to_dense() for name, gradient in gradients.items() if gradient is not None}
