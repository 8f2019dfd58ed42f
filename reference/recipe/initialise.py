"""Initialising what sam3 0.1.4 leaves uninitialised: two tensors of its text encoder, made with ``torch.empty``.

A released checkpoint fills them. A model trained from scratch would start from whatever was in memory: two builds
under one seed differ, and the first loss can be NaN.
"""

from __future__ import annotations

import torch
from sam3.model.text_encoder_ve import TextTransformer
from torch import nn

#: Standard deviation of position embeddings, as CLIP, whose text encoder this is, draws them.
POSITION_STD = 0.01


@torch.no_grad()
def initialise(model: nn.Module) -> tuple[str, ...]:
    """Draw the tensors that the package left uninitialised from torch's default generator.

    Position embeddings [length, width] are normal of standard deviation 0.01, text projections [width, output] of
    ``width ** -0.5``. To be called once, before a checkpoint is loaded.

    Returns:
        The names of the parameters initialised, in the order in which they were drawn.
    """
    names = []
    for prefix, module in model.named_modules():
        if not isinstance(module, TextTransformer):
            continue
        spreads = {"positional_embedding": POSITION_STD, "text_projection": module.width**-0.5}
        for name, spread in spreads.items():
            tensor = getattr(module, name)
            if isinstance(tensor, nn.Parameter):  # a projection with bias is a layer that initialises itself
                tensor.normal_(std=spread)
                names.append(f"{prefix}.{name}" if prefix else name)
    return tuple(names)
