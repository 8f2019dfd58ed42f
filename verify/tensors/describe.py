"""Tensors and their differences in one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def describe_tensor(values: Any) -> str:
    """A tensor in one line: shape, type, first values, and how many are NaN."""
    if not isinstance(values, torch.Tensor):
        return f"{type(values).__name__} {values!r}"[:120]
    flat = values.detach().flatten()
    numbers = ", ".join(f"{float(number):.8g}" for number in flat[:4])
    nan = int(torch.isnan(flat).sum()) if values.is_floating_point() else 0
    more = ", …" if flat.numel() > 4 else ""
    poison = f", {nan} of {flat.numel()} NaN" if nan else ""
    return f"{list(values.shape)} {str(values.dtype).removeprefix('torch.')} [{numbers}{more}]{poison}"


def describe_difference(expected: torch.Tensor, got: torch.Tensor) -> str:
    """Where two tensors of the same shape differ most."""
    wide, narrow = expected.double(), got.double()
    apart = (wide - narrow).abs()
    apart[torch.isnan(apart)] = float("inf")
    worst = int(apart.argmax())
    index = [int(number) for number in torch.unravel_index(torch.tensor(worst), apart.shape)]
    count = int((apart > 0).sum())
    expected_value, got_value = float(wide.flatten()[worst]), float(narrow.flatten()[worst])
    return f"{count} of {apart.numel()} values differ, most at {index}: {expected_value:.9g} became {got_value:.9g}"


def count_by_part(names: Iterable[str]) -> str:
    """Name parameters by their part of the model: ``segmentation_head (28), …``."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))
