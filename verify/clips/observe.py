"""Observing a case on the only rank of a group of its own.

A group of one isolates: sam3's loss all-reduces over the default group, and under torchrun that one has other ranks.
Observations are kept, because many checks look at the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fixtures.ranks import Ranks, RanksFailed
from verify.clips.case import Training
from verify.engine.check import Observation
from verify.engine.finding import NotCovered, Violation
from verify.engine.remembered import remembered
from verify.target.naming import Target

#: Observations remembered: those of one profile *quick*, more or less.
_MOST_KEPT = 128
_kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

#: Observes a case on a rank.
OnRank = Callable[[int, int, Target, Training], Any]


def on_one_rank(function: OnRank) -> Observation:
    """Make an observation of a function, run on a single rank; its results and failures are remembered."""

    def observe(ranks: Ranks, target: Target, case: Training) -> Any:
        def outcome() -> Any:
            try:
                return ranks.run(function, 1, target, case)[0].value
            except RanksFailed as failure:
                cause = failure.causes.get(0)
                return cause if isinstance(cause, (Violation, NotCovered)) else failure

        return remembered(_kept, (function.__name__, target, case), _MOST_KEPT, outcome)

    return observe
