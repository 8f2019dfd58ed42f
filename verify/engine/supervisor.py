"""Runs the process that judges, and sees to it that there is a verdict however that process ends.

Imports nothing that takes time before that process is started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.engine.journal import VARIABLE, Progress, pages, read_plan, read_status, was_interrupted

#: For how long a journal may stay as it is before there is a plan: torch, sam3 and the target are imported.
IMPORTS = 600.0
#: How long the process may take to end once it has come to its verdict, or was interrupted.
ENDS = 15.0
#: How long the process may take to notice an interrupt.
_NOTICES = 1.0
_POLL = 0.2
#: pytest's status for an interrupt, and for a failure of its own.
_INTERRUPTED, _BROKEN = 2, 3


@dataclass
class _Signals:
    """Which signals have come to this process, in order."""

    came: list[int] = field(default_factory=list)

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda number, _: self.came.append(number))

    @property
    def last(self) -> int | None:
        return self.came[-1] if self.came else None


@dataclass(frozen=True)
class End:
    """How the process that judges has ended."""

    #: As ``subprocess`` gives it: negative where a signal has ended it.
    code: int
    #: The exit status that it came to, None where it did not.
    status: int | None
    #: The signal by which somebody has ended the run from outside.
    told_by: int | None = None
    #: Why it had to be killed.
    killed_for: str = ""

    def in_words(self) -> str:
        """What ended the process, as what follows its name."""
        if self.killed_for:
            return self.killed_for
        if self.status == _INTERRUPTED:
            return "was interrupted (SIGINT), by none of this run's users"
        if self.status == _BROKEN:
            return "could not go on: what the gate itself stands on was broken (pytest's INTERNALERROR)"
        if self.code < 0:
            name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
            memory = ", perhaps for want of memory" if -self.code == signal.SIGKILL else ""
            return f"was ended by {name}{memory}"
        return f"ended itself with status {self.code}, which no part of the gate asked for"


def supervise(
    command: Sequence[str], patience: float | None = None, publish: Callable[[Any, Any], None] | None = None
) -> int:
    """Run a command that keeps a journal; gives the exit status of the verification.

    ``patience``: in place of what the plan says, for how many seconds nothing may change in the journal.
    ``publish``: what is done beside with a report that is made here, and with what it counts.
    """
    folder = Path(tempfile.mkdtemp(prefix="sam3-video-verify-"))
    signals = _Signals()
    signals.listen()
    try:
        environment = {**os.environ, VARIABLE: str(folder), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
        end = _watch(subprocess.Popen(list(command), env=environment), folder, signals, patience)
        return _status(end, folder, publish)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(process: subprocess.Popen[bytes], folder: Path, signals: _Signals, patience: float | None) -> End:
    """Wait for the end of the process, which is made to end where it does not by itself."""
    progress, ending, told = Progress(), 0.0, 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(_POLL)
            return End(code, read_status(folder), signals.last)
        # Time is counted in turns of this loop: a run that the user has suspended is not late.
        status = read_status(folder)
        if status is not None or signals.came:
            ending += _POLL
            # An interrupt from the keyboard has come to the process by itself.
            late = signals.last != signal.SIGINT or (ending > _NOTICES and not was_interrupted(folder))
            if late and told < len(signals.came):
                process.send_signal(signals.came[-1])
                told = len(signals.came)
            if ending > ENDS:
                why = "" if signals.came else "did not end after its verdict, for threads left running"
                return _killed(process, status, signals.last, why)
            continue
        quiet = progress.silence(folder, _POLL)
        allowed = patience if patience is not None else float((read_plan(folder) or {}).get("patience", IMPORTS))
        if quiet > allowed:
            return _killed(process, None, None, f"did not go on for {quiet:.0f} s, and could not be interrupted")


def _killed(process: subprocess.Popen[bytes], status: int | None, told_by: int | None, why: str) -> End:
    process.kill()
    return End(process.wait(), status, told_by, why)


def _status(end: End, folder: Path, publish: Callable[[Any, Any], None] | None) -> int:
    """The exit status of a verification; where it came to no verdict, its report is written before."""
    if end.told_by == signal.SIGINT:
        return _INTERRUPTED if end.status is not None else 128 + signal.SIGINT
    # An interrupt that nobody sent was the target's; and so is what breaks pytest.
    broken = end.status in (_INTERRUPTED, _BROKEN) and any(page.under_way for page in pages(folder))
    if end.status is not None and not broken and not end.killed_for:
        return end.status
    from verify.engine.aftermath import conclude  # imports torch

    lines = conclude(folder, end.in_words(), by_target=end.told_by is None, publish=publish)
    print("\n".join(lines), flush=True)
    return 1 if end.told_by is None else 128 + end.told_by
