"""The observations that a check's pictures are made of: of the cases that a trial has compared, one or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verify.engine.check import Case, Check, Target
from verify.engine.interrupt import by_the_user
from verify.engine.picture import Picture, travels


@dataclass(frozen=True)
class _Kept:
    """An observation of a case that was compared; a check may have observed that case in another form."""

    case: Case
    observed: Case
    seen: Any


@dataclass
class Illustrated:
    """Keeps what was observed last, of a case that violates, and of the one that shows most of those that pass."""

    check: Check
    target: Target
    _last: tuple[Case, Any] | None = field(default=None, init=False)
    _violating: _Kept | None = field(default=None, init=False)
    _passing: _Kept | None = field(default=None, init=False)
    #: Cases that violate whose ranks came to their end: what may hang is not observed a second time.
    _ended: set[Case] = field(default_factory=set, init=False)

    def begin(self) -> None:
        """Take note that a case is compared from now on."""
        self._last = None

    def observed(self, case: Case, seen: Any) -> None:
        """Take note of an observation of the case under way."""
        if self.check.pictures is not None:
            self._last = case, seen

    def compared(self, case: Case, violates: bool) -> None:
        """Take note of how the case ended whose observations were the last ones."""
        last, self._last = self._last, None
        if violates:
            self._violating = kept = _Kept(case, *(last or (case, None)))
            if kept.seen is not None and not isinstance(kept.seen, Exception):
                self._ended.add(case)
        elif last is None:
            return
        elif self._more(kept := _Kept(case, *last)):
            self._passing = kept

    def _more(self, kept: _Kept) -> bool:
        shows, best = self.check.shows, self._passing
        try:
            return shows is not None and (best is None or shows(kept.observed) > shows(best.observed))
        except Exception:  # a picture is not worth a verdict
            return False

    def pictures(self, violating: Case | None, again: Callable[[Case], Any]) -> tuple[Picture, ...]:
        """The pictures of a case that violates, or where there is none, of one that passed.

        ``again`` compares a case once more: the smallest one need not be the last that was tried. Whatever goes wrong
        here costs the pictures and nothing else.
        """
        try:
            if self.check.pictures is None:
                return ()
            kept = self._passing if violating is None else self._violating
            if violating in self._ended and kept is not None and kept.case != violating:
                again(violating)
                kept = self._violating
            if kept is None or kept.seen is None or (violating is not None and kept.case != violating):
                return ()
            drawn = self.check.pictures(kept.observed, kept.seen, self.target)
            return tuple(picture for picture in drawn if isinstance(picture, Picture) and travels(picture))
        except BaseException as error:
            if by_the_user(error):
                raise
            return ()
