"""Random generators of Python, NumPy and torch: seeded for a while, and left where they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the CPU's generators as they were, whatever is drawn from them or seeds them meanwhile."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from generators of ``seed``, from 0 to 2**32 - 1, and leave the caller's where they were."""
    with generators_kept():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
