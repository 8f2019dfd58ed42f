"""Observations that several checks look at: made once, and given or raised again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


def remembered(kept: OrderedDict[Any, Any], key: Hashable, most: int, outcome: Callable[[], Any]) -> Any:
    """Give what was observed under ``key``, or raise what was raised: ``outcome`` is asked where nothing is ``kept``.

    ``outcome`` gives the observation, or the exception that it ended in. Of more than ``most``, the ones that were
    asked for longest ago are forgotten.
    """
    if key not in kept:
        kept[key] = outcome()
        while len(kept) > most:
            kept.popitem(last=False)
    kept.move_to_end(key)
    if isinstance(kept[key], Exception):
        raise kept[key].with_traceback(None)
    return kept[key]
