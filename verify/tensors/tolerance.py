"""How far a result may lie from the oracle's: what rounding comes to, measured on the oracle itself.

A loop that encodes all frames in one call, and an oracle that encodes each alone, compute the same sums in different
orders: matrix products of other shapes are blocked otherwise. What that amounts to depends on the model and on the
tensor, so it is not written down here as a number. It is measured: the oracle is run once more on the same batch with
each pixel moved by one rounding step, up or down at random. Its outputs and gradients then move as far as an error of
that size at the very beginning carries them, through the same weights. At toy width, sums in another order move
them by 0.3 to 1.6 times as far.

- A value may lie ``MARGIN`` times as far off as the perturbed oracle's, at most, over all values of the same name in
  all frames.
- Never less is allowed than ``MARGIN`` rounding steps of the largest value among all that are compared: a tensor of a
  few values may by chance not move at all.
- What is discrete (matched indices) is equal, or the perturbation moves it, too, and it is not compared.

A frame, prompt or target taken from the wrong place moves outputs by a tenth; half precision by a thousandth; the
tolerance is some 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

#: How many times what one rounding step of the input comes to.
MARGIN = 16.0

#: A tensor's values by name.
Named = Mapping[str, torch.Tensor]


def perturbed(images: torch.Tensor, seed: int = 0, precision: torch.dtype = torch.float32) -> torch.Tensor:
    """Give ``images`` with each value moved to a number next to it in a ``precision``, drawn from a seed."""
    up = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    rounded = images.to(precision)
    infinity = torch.full_like(rounded, float("inf"))
    return torch.nextafter(rounded, torch.where(up.to(images.device), infinity, -infinity)).to(images.dtype)


def rounding(largest: float, dtype: torch.dtype = torch.float32) -> float:
    """Give what ``MARGIN`` rounding steps of a value as large as this come to."""
    return MARGIN * torch.finfo(dtype).eps * largest


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Give how far two tensors of the same shape lie apart at most; infinity where one alone is not a number."""
    apart = (one.double() - other.double()).abs()
    apart[one.double() == other.double()] = 0.0  # also of infinities
    apart[torch.isnan(one) & torch.isnan(other)] = 0.0
    apart[torch.isnan(apart)] = float("inf")
    return float(apart.max()) if apart.numel() else 0.0


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def tolerances(pairs: Iterable[tuple[Named, Named]]) -> dict[str, float]:
    """Give for each name how far a value may lie off.

    Args:
        pairs: what the oracle gives and what it gives of the perturbed images, frame by frame. A discrete tensor gets
            0, or infinity where the perturbation moves it in any frame; so does one whose shape it changes.
    """
    moved: dict[str, float] = {}
    discrete: set[str] = set()
    largest = 0.0
    for right, off in pairs:
        for name, values in right.items():
            other = off.get(name)
            if not values.is_floating_point():
                discrete.add(name)
                stable = other is not None and torch.equal(values, other)
                moved[name] = max(moved.get(name, 0.0), 0.0 if stable else float("inf"))
                continue
            largest = max(largest, _largest(values))
            comparable = other is not None and other.shape == values.shape
            apart = distance(values, other) if comparable and other is not None else float("inf")
            moved[name] = max(moved.get(name, 0.0), apart)
    return {
        name: apart if name in discrete else max(MARGIN * apart, rounding(largest)) for name, apart in moved.items()
    }
