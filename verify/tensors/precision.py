"""The precision that a model computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute in float32 what is float32: on a GPU, by TF32 else, with 10 of its 23 bits; does nothing without one.

    sam3 turns TF32 on where it is imported. What is equal up to rounding would be so up to a thousandth.
    """
    if not torch.cuda.is_available():
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    parts: tuple[Any, ...] = (matmul, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in parts]
    try:
        _set_tf32(parts, ["ieee"] * len(parts))
        yield
    finally:
        _set_tf32(parts, before)


def _set_tf32(parts: tuple[Any, ...], precisions: list[str]) -> None:
    """Set the precision of matrix products, convolutions and recurrent layers.

    Torch has two ways to say it. By the older one first, which sets both: where they contradict one another, reading it
    fails.
    """
    torch.backends.cuda.matmul.allow_tf32 = precisions[0] == "tf32"
    torch.backends.cudnn.allow_tf32 = precisions[1] == "tf32"
    for part, precision in zip(parts, precisions, strict=True):
        part.fp32_precision = precision


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Run a model under autocast to ``dtype``; where that is float32, plain; on a GPU without TF32."""
    with ExitStack() as stack:
        stack.enter_context(without_tf32())
        if dtype is not torch.float32:
            stack.enter_context(torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=dtype))
        yield
