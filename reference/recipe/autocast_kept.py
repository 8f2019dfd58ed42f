"""sam3's predictors made without what they do to the process: they open autocast and never close it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DEVICE = "cuda"  # whatever the model's device is, and whether there is CUDA or not


@contextmanager
def autocast_kept() -> Iterator[None]:
    """Leave autocast as it was at the end of the block.

    ``Sam3TrackerPredictor.__init__`` enters ``torch.autocast("cuda", torch.bfloat16)`` for the whole process. Training
    in it would then compute in bfloat16 unasked; and under AMP it would go on with the copies of weights that autocast
    made in the first step, since these are let go of when the outermost context ends
    (https://docs.pytorch.org/docs/stable/amp.html), which it no longer does.
    """
    on, dtype = torch.is_autocast_enabled(_DEVICE), torch.get_autocast_dtype(_DEVICE)
    caches = torch.is_autocast_cache_enabled()
    depth = torch.autocast_increment_nesting()
    try:
        yield
    finally:
        while torch.autocast_decrement_nesting() >= depth:
            pass
        torch.set_autocast_enabled(_DEVICE, on)
        torch.set_autocast_dtype(_DEVICE, dtype)
        torch.set_autocast_cache_enabled(caches)
