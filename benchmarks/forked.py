"""Calling functions in forks of this process, which has imported what they need: each alone, for so long at most."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import torch

from fixtures.ranks import gpus

Asked = TypeVar("Asked")
Given = TypeVar("Given")


def made_ready() -> None:
    """Make this process one whose forks can judge: on the CPU, in one thread each, without what sam3 warns of."""
    gpus.hide()
    torch.set_num_threads(1)  # a fork has none of the threads of a library
    warnings.simplefilter("ignore")


@dataclass(frozen=True)
class Ended(Generic[Asked, Given]):
    """A call that has ended."""

    asked: Asked
    #: What the function gave; None where the process gave nothing.
    given: Given | None
    #: Whether it was ended because its time was up.
    timed_out: bool


@dataclass(frozen=True)
class _Running(Generic[Asked]):
    asked: Asked
    process: BaseProcess
    connection: Connection
    deadline: float


def _call(function: Callable[[Asked], Given], asked: Asked, connection: Connection, folder: str) -> None:
    tempfile.tempdir = folder  # goes with the parent's: nothing of this process is cleared away
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    with contextlib.suppress(BaseException):  # whatever an edit does; that nothing comes says that it has
        connection.send(function(asked))
        connection.close()
    os._exit(0)  # threads of ranks that hang are not waited for


def in_forks(
    function: Callable[[Asked], Given], every: Iterable[Asked], workers: int, seconds: float
) -> Iterator[Ended[Asked, Given]]:
    """Call a function for each, with so many processes at once; gives the calls as they end."""
    forking = multiprocessing.get_context("fork")
    gc.collect()
    gc.freeze()  # what is here stays, and no fork has to look through it
    waiting, running = iter(every), list[_Running[Asked]]()
    held = tempfile.TemporaryDirectory(prefix="forks-")
    try:
        while True:
            while len(running) < workers and (asked := next(waiting, None)) is not None:
                ours, theirs = forking.Pipe(duplex=False)
                process = forking.Process(target=_call, args=(function, asked, theirs, held.name), daemon=True)
                process.start()
                theirs.close()
                running.append(_Running(asked, process, ours, time.monotonic() + seconds))
            if not running:
                return
            first = min(one.deadline for one in running)
            ready = wait([one.connection for one in running], max(0.0, first - time.monotonic()))
            now = time.monotonic()
            for one in list(running):
                if one.connection in ready or one.deadline <= now:
                    running.remove(one)
                    yield _ended(one, one.connection in ready)
    finally:
        for one in running:
            one.process.kill()
            one.process.join()
        held.cleanup()


def _ended(one: _Running[Asked], ready: bool) -> Ended[Asked, Given]:
    given: Given | None = None
    if ready:
        with contextlib.suppress(EOFError):
            given = one.connection.recv()
    one.process.kill()
    one.process.join()
    one.connection.close()
    return Ended(one.asked, given, not ready)
