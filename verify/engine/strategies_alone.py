"""Cases that are drawn from the strategies alone, whatever this process has imported.

Hypothesis draws one integer in twenty from the constants that it finds in the source code of imported modules
(``hypothesis.internal.conjecture.providers.HypothesisProvider``). So a check would see other cases by itself than after
others, and other cases once a line of any module is edited: a seed would say nothing. No setting turns that off, hence
this workaround; where a version of Hypothesis keeps the constants elsewhere, it draws as it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis.internal.conjecture import providers

_KEEPS_THEM_HERE = hasattr(providers, "CONSTANTS_CACHE") and hasattr(providers.HypothesisProvider, "_local_constants")


@contextmanager
def strategies_alone() -> Iterator[None]:
    """Draws without the constants of imported modules; after it Hypothesis goes on as it did."""
    if not _KEEPS_THEM_HERE:
        yield
        return
    providers.CONSTANTS_CACHE.cache.clear()  # what was permitted with them
    try:
        with mock.patch.object(providers.HypothesisProvider, "_local_constants", providers.Constants()):
            yield
    finally:
        providers.CONSTANTS_CACHE.cache.clear()
