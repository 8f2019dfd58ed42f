"""The precision that a model computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def computing_in(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Run a model under autocast to ``dtype``; where that is float32, plain."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", dtype=dtype)
