"""A machine without a core to spare."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager


def _spin() -> None:
    while True:
        pass


@contextmanager
def loaded(load: bool) -> Iterator[None]:
    """Keep every core busy."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)] if load else []
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
