"""How many mutants ended in which way, and the score with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

from benchmarks.mutation.judging import (
    DOES_NOT_RUN,
    ENDED,
    HAZARDOUS,
    KILLED,
    NO_LONGER_MADE,
    NO_TENSOR,
    NOT_REACHED,
    REFUSED,
    SURVIVED,
    TIMED_OUT,
)

#: All ways to end, as they are reported.
OUTCOMES = (
    KILLED,
    REFUSED,
    ENDED,
    DOES_NOT_RUN,
    HAZARDOUS,
    NO_LONGER_MADE,
    TIMED_OUT,
    SURVIVED,
    NOT_REACHED,
    NO_TENSOR,
)
#: The gate does not pass: it refuses what cannot be imported or built, and reports a process that was ended.
SEEN = (KILLED, REFUSED, ENDED, DOES_NOT_RUN)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """Killed mutants among all that were judged; a time that was up kills nothing."""

    killed: int
    mutants: int
    #: Wilson's interval of the share, for mutants drawn from all; 0 to 1 where there are none.
    low: float
    high: float

    @property
    def share(self) -> float | None:
        return self.killed / self.mutants if self.mutants else None

    def __str__(self) -> str:
        if self.share is None:
            return "no mutant was judged"
        return f"{self.killed} of {self.mutants} killed: {self.share:.1%} ({self.low:.1%} to {self.high:.1%})"


def score(killed: int, mutants: int) -> Score:
    """The score of so many killed mutants.

    Raises:
        ValueError: where more are killed than there are, or fewer than none.
    """
    if not 0 <= killed <= mutants:
        raise ValueError(f"{killed} of {mutants} mutants cannot have been killed")
    if not mutants:
        return Score(0, 0, 0.0, 1.0)
    interval = binomtest(killed, mutants).proportion_ci(CONFIDENCE, method="wilson")
    return Score(killed, mutants, float(interval.low), float(interval.high))


def score_of(outcomes: Iterable[str], with_those_that_do_not_run: bool = True) -> Score:
    """The score of mutants that ended so; edits of no tensor are no mutants."""
    counted = Counter(outcomes)
    del counted[NO_TENSOR]
    if not with_those_that_do_not_run:
        del counted[DOES_NOT_RUN]
    return score(sum(counted[outcome] for outcome in SEEN), sum(counted.values()))
