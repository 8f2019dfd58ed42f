"""A pytest plugin, ``-p benchmarks.gate.clock``: writes what a run's seconds went into to the file that CLOCK names."""

from __future__ import annotations

import functools
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
        """Count a part of the checks, or what is a ``stage`` of the run wherever it happens."""
        self._count()
        depth = len(self._open)
        self._open.append(("" if stage else self.group, part))
        try:
            yield
        finally:
            self._count()
            del self._open[depth:]  # and what a rank that was left to itself has entered


BEGAN = time.monotonic()
CLOCK = Clock(IMPORTS)
#: Each item's name and seconds.
CHECKS: list[tuple[str, float]] = []
#: When collections of garbage began and ended, one after the other.
GARBAGE: list[float] = []


def _timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with CLOCK.under(part):
            return function(*args, **kwargs)

    return timed


def _watch() -> None:
    """Count what is built, observed, compared and waited for from now on."""
    from fixtures.toy import build
    from verify.engine.judge import Gate

    judge, shrunk, again = Gate.judge, build.toy_width, build.Construction.again
    process: Any = get_context("forkserver").Process
    start = process.start

    def timed_judge(gate: Any, check: Any, launcher: str) -> Any:
        observation, body = _timed(check.observation, OBSERVING), _timed(check.body, COMPARING)
        return judge(gate, replace(check, observation=observation, body=body), launcher)

    @contextmanager
    def timed_toy_width(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with CLOCK.under(BUILDING if CLOCK.group else CONFIGURING), shrunk(*args, **kwargs) as state:
            yield state

    def timed_start(self: Any) -> None:
        process.start = start  # the first one to be forked waits until the server has imported all
        with CLOCK.under(WAITING, stage=True):
            start(self)

    Gate.judge, build.toy_width = timed_judge, timed_toy_width  # type: ignore[method-assign]
    build.Construction.again, process.start = _timed(again, BUILDING), timed_start  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    gc.callbacks.append(lambda phase, info: GARBAGE.append(time.monotonic()))
    yield
    _watch()
    CLOCK.begin(CONFIGURING)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    CLOCK.begin(COLLECTING)
    return (yield)


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
    CLOCK.begin(ENDING)
    seconds = [(group, part, seconds) for (group, part), seconds in CLOCK.seconds.items()]
    garbage = sum(ended - began for began, ended in zip(GARBAGE[::2], GARBAGE[1::2], strict=False))
    counted = {"seconds": seconds, "checks": CHECKS, "garbage": garbage, "began": BEGAN, "ended": time.monotonic()}
    Path(os.environ[FILE]).write_text(json.dumps(counted), encoding="utf-8")
