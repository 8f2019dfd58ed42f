"""Cases that are drawn from their strategies alone: not from what is imported, and not from each other.

Two habits of Hypothesis have no setting, hence this workaround. Where a version of it keeps them elsewhere, it draws as
it does.

- It takes one integer in twenty from the constants in the source code of imported modules
  (``hypothesis.internal.conjecture.providers.HypothesisProvider``). So a check would see other cases by itself than
  after others, and other cases once a line of any module is edited: a seed would say nothing.
- After a case it runs up to five in which one part is copied over another
  (``hypothesis.internal.conjecture.engine.ConjectureRunner.generate_mutations_from``). That finds bugs of values that
  have to be equal, in hundreds of cases; of the 25 here it leaves a third that differ in nothing a schedule hangs on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from hypothesis.internal.conjecture import providers
from hypothesis.internal.conjecture.engine import ConjectureRunner

_HAS_CONSTANTS = hasattr(providers, "CONSTANTS_CACHE") and hasattr(providers.HypothesisProvider, "_local_constants")
_HAS_COPIES = hasattr(ConjectureRunner, "generate_mutations_from")


@contextmanager
def strategies_alone() -> Iterator[None]:
    """Draws each case by itself, without the constants of imported modules; after it Hypothesis goes on as it did."""
    with ExitStack() as stack:
        if _HAS_CONSTANTS:
            forget = providers.CONSTANTS_CACHE.cache.clear  # what was permitted with them, or without
            forget()
            stack.callback(forget)
            none = providers.Constants()
            stack.enter_context(mock.patch.object(providers.HypothesisProvider, "_local_constants", none))
        if _HAS_COPIES:
            stack.enter_context(mock.patch.object(ConjectureRunner, "generate_mutations_from"))
        yield
