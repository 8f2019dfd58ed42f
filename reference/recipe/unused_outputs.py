"""Letting ``DistributedDataParallel`` see which outputs of a forward the loss left unused."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import FunctionCtx


class _Together(torch.autograd.Function):
    """Hand tensors through; going backward, reach behind all of them as soon as one has a gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)  # an unused output hands None on, not zeros: nothing is computed behind it
        return tensors

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return gradients


def _collect(value: Any, found: dict[int, torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        if value.requires_grad:
            found[id(value)] = value
    elif type(value) is dict:
        for item in value.values():
            _collect(item, found)
    elif type(value) in (list, tuple):
        for item in value:
            _collect(item, found)


def _replaced(value: Any, by: dict[int, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return by.get(id(value), value)
    if type(value) is dict:
        return {key: _replaced(item, by) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, by) for item in value)
    return value


def used_together(outputs: dict[str, Any]) -> dict[str, Any]:
    """Give ``outputs`` (nested dicts, lists and tuples of tensors) again, such that any of them may stay unused.

    DDP with ``find_unused_parameters`` looks into the model's result for tensors, takes every parameter behind them
    for used and then waits for its gradient. For outputs that the loss leaves out it has a remedy of its own, which
    does not look into sam3's ``SAM3Output``: so a parameter that acts on an unused output alone (the mask head under
    a box loss, say) is waited for in vain, and the next iteration fails. This is the same remedy, applied here: values
    and gradients are what they were; a parameter behind unused outputs alone is told so, and its ``grad`` is left
    alone.
    """
    found: dict[int, torch.Tensor] = {}
    _collect(outputs, found)
    if not found:
        return outputs
    handed = _Together.apply(*found.values())
    return _replaced(outputs, dict(zip(found, handed, strict=True)))
