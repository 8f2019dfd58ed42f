"""The derivative of a loss by differences, with what it may be off by: nothing of it comes from autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Derivative:
    """A directional derivative, and an estimate of its error: infinite where the loss cannot be evaluated."""

    value: float
    error: float


@contextmanager
def moved(tensors: Sequence[torch.Tensor], direction: Sequence[torch.Tensor], by: float) -> Iterator[None]:
    """Add ``by`` times a direction to tensors in place; afterwards they are the same bits as before."""
    before = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        for tensor, step in zip(tensors, direction, strict=True):
            tensor.add_(step, alpha=by)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, kept in zip(tensors, before, strict=True):
                tensor.copy_(kept)


def rounding_noise(loss: Callable[[], float], tensors: Sequence[torch.Tensor], times: int = 3) -> float:
    """Measure how far rounding carries a loss: the most that it differs by when tensors move by one rounding step."""
    values = [loss()]
    for seed in range(times):
        draw = torch.Generator().manual_seed(seed)
        steps = [
            torch.where(torch.rand(tensor.shape, generator=draw) < 0.5, 1.0, -1.0).to(tensor)
            * tensor.detach().abs()
            * torch.finfo(tensor.dtype).eps
            for tensor in tensors
        ]
        with moved(tensors, steps, 1.0):
            values.append(loss())
    return max(values) - min(values)


def derivative(
    loss: Callable[[], float],
    tensors: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    step: float,
    at_rest: float,
    noise: float,
) -> Derivative:
    """Differentiate a loss along a direction, by central differences of two step sizes.

    Args:
        loss: evaluated anew at each call, from the ``tensors``, which are moved in place.
        direction: one tensor for each of ``tensors``, of its shape.
        step: the longer of both steps, in parts of the direction; the other is half of it.
        at_rest: the loss where nothing is moved.
        noise: how far rounding carries a value of the loss.

    Returns:
        Richardson's extrapolation of both differences. Its error is the sum of three: how far the extrapolation is
        from the better difference; how far the one-sided slopes differ by what does not vanish with the step, which is
        the sign of a kink; and rounding.
    """
    at = {}
    for by in (step, -step, step / 2, -step / 2):
        with moved(tensors, direction, by):
            at[by] = loss()
    if not all(map(math.isfinite, at.values())):
        return Derivative(math.nan, math.inf)
    wide = (at[step] - at[-step]) / (2 * step)
    narrow = (at[step / 2] - at[-step / 2]) / step
    best = (4 * narrow - wide) / 3
    # For a smooth loss the slopes to both sides differ in proportion to the step: half as much at half of it.
    bend = (at[step] + at[-step] - 2 * at_rest) / step
    half_bend = (at[step / 2] + at[-step / 2] - 2 * at_rest) / (step / 2)
    return Derivative(best, abs(best - narrow) + abs(2 * half_bend - bend) + 4 * noise / step)
