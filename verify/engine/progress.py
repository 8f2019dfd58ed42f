"""How far a verification has come: the check being made, cases so far, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds between two lines where a line cannot be written over, and between two looks where it can.
_BETWEEN_LINES = 15.0
_BETWEEN_LOOKS = 0.2
#: Of so few checks the time of the others cannot be told.
_TELLING = 5


def in_words(seconds: float) -> str:
    """A stretch of time, roughly: seconds in tens, minutes from one and a half on."""
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} s"
    return f"{round(seconds / 60)} min"


@dataclass
class Progress:
    """How far a verification has come, shown now and then.

    ``show`` gets a line of text; ``live``: it writes over the line before.
    """

    #: How many checks are to be made, on each launcher and of each subject.
    total: int
    show: Callable[[str], None]
    live: bool
    clock: Callable[[], float] = time.monotonic
    made: int = 0
    cases: int = 0
    making: str = ""
    _started: float = field(init=False)
    _shown: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._shown = self.clock()

    def begin(self, check: str) -> None:
        """A check is made from now on."""
        self.making = check
        if self.live:
            self._now_and_then(_BETWEEN_LOOKS)

    def case(self) -> None:
        """A case is run."""
        self.cases += 1
        if self.live:
            self._now_and_then(_BETWEEN_LOOKS)

    def end(self) -> None:
        """A check has ended."""
        self.made += 1
        self._now_and_then(_BETWEEN_LOOKS if self.live else _BETWEEN_LINES)

    def _now_and_then(self, seconds: float) -> None:
        if self.clock() - self._shown >= seconds:
            self._shown = self.clock()
            self.show(self.text())

    def text(self) -> str:
        """The line that is shown."""
        line = f"[{self.made}/{self.total}] {self.making}: {self.cases} cases so far"
        left = self.seconds_left()
        return line if left is None else f"{line}, about {in_words(left)} left"

    def seconds_left(self) -> float | None:
        """How long the checks will take that are left, if each takes as long as those before; None: not known."""
        if self.made < _TELLING or self.made >= self.total:
            return None
        return (self.clock() - self._started) / self.made * max(0, self.total - self.made)
