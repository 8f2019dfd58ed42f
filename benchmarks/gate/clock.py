"""A pytest plugin, ``-p benchmarks.gate.clock``: writes what a run's seconds went into to the file that CLOCK names."""

from __future__ import annotations

import gc
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

FILE = "CLOCK"

STARTING, IMPORTS, CONFIGURING, COLLECTING = "starting Python and pytest", "imports", "configuring", "collecting"
WAITING, ENDING = "waiting for the server of ranks", "reporting and ending"
BUILDING, OBSERVING, COMPARING, REST = "building", "launching and scanning", "comparing", "the rest"
STAGES = (STARTING, IMPORTS, CONFIGURING, COLLECTING, WAITING, ENDING)
PARTS = (BUILDING, OBSERVING, COMPARING, REST)


class Clock:
    """Counts seconds under the name that was entered last: a stage of the run, or a group and a part of its checks."""

    def __init__(self, stage: str, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        #: Whose checks are being made; "" outside of them.
        self.group = ""
        self._now, self._open, self._since = now, [("", stage)], now()

    def _count(self) -> None:
        now = self._now()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def begin(self, stage: str) -> None:
        """A stage of the run begins, and the one before has ended."""
        self._count()
        self._open[:] = [("", stage)]

    @contextmanager
    def under(self, part: str, stage: bool = False) -> Iterator[None]:
        """Count a part of the checks, or outside of them the stage under way; ``stage``: it is one of the run's."""
        self._count()
        depth = len(self._open)
        self._open.append(("", part) if stage else (self.group, part) if self.group else self._open[-1])
        try:
            yield
        finally:
            self._count()
            del self._open[depth:]  # and what a rank that was left to itself has entered


BEGAN = time.monotonic()
CLOCK = Clock(IMPORTS)
CHECKS: list[tuple[str, float]] = []
#: When collections of garbage began and ended, one after the other.
GARBAGE: list[float] = []


def _watch() -> None:
    """Count what is built, observed, compared and waited for from now on."""
    from fixtures.toy import build
    from verify.engine.judge import Gate

    process: Any = get_context("forkserver").Process
    judge, shrunk, again, start = Gate.judge, build.toy_width, build.Construction.again, process.start

    def timed_judge(gate: Any, check: Any, launcher: str) -> Any:
        observation, body = CLOCK.under(OBSERVING)(check.observation), CLOCK.under(COMPARING)(check.body)
        return judge(gate, replace(check, observation=observation, body=body), launcher)

    @contextmanager
    def timed_toy_width(keep_dropout: bool) -> Iterator[Any]:
        with CLOCK.under(BUILDING), shrunk(keep_dropout) as state:
            yield state

    def timed_start(self: Any) -> None:
        process.start = start  # the first one to be forked waits until the server has imported all
        with CLOCK.under(WAITING, stage=True):
            start(self)

    Gate.judge, build.toy_width = timed_judge, timed_toy_width  # type: ignore[method-assign]
    build.Construction.again, process.start = CLOCK.under(BUILDING)(again), timed_start  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    gc.callbacks.append(lambda phase, info: GARBAGE.append(time.monotonic()))
    yield
    _watch()
    CLOCK.begin(CONFIGURING)


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    CLOCK.begin(COLLECTING)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    try:
        return (yield)
    finally:
        CLOCK.begin(ENDING)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    check = getattr(getattr(item, "function", None), "check", None)
    CLOCK.group = check.group if check else ""
    started = time.monotonic()
    try:
        with CLOCK.under(REST):
            return (yield)
    finally:
        CLOCK.group = ""
        CHECKS.append((item.name, time.monotonic() - started))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    CLOCK.begin(ENDING)  # counts what was under way
    seconds = [(group, part, seconds) for (group, part), seconds in CLOCK.seconds.items()]
    garbage = sum(GARBAGE[1::2]) - sum(GARBAGE[::2])
    counted = {"seconds": seconds, "checks": CHECKS, "garbage": garbage, "began": BEGAN, "ended": time.monotonic()}
    Path(os.environ[FILE]).write_text(json.dumps(counted), encoding="utf-8")
