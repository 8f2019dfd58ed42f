"""Copies of datasets as a data loader's workers have them."""

from __future__ import annotations

import copy
import traceback
from typing import Any


def worker_copy(dataset: Any) -> Any:
    """Copy a dataset, as forking copies it for a worker.

    What cannot be copied, such as a lock, an open file or a memory map, is shared, as it is with a worker.
    """
    shared: dict[int, Any] = {}
    while True:
        try:
            return copy.deepcopy(dataset, dict(shared))
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            # What the innermost call was given is what it failed on.
            failed_on = [frame.f_locals["x"] for frame in frames if frame.f_code is copy.deepcopy.__code__][-1]
            if id(failed_on) in shared:
                raise
            shared[id(failed_on)] = failed_on
