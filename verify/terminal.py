"""What the gate writes to pytest's terminal: what is judged, how far that has come, and the report.

pytest's own account of the checks is left out where it is not asked to be verbose: a letter each check, and each
failure a launcher. The report says all of that once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any, TextIO

import pytest

from verify.engine.options import Options
from verify.engine.progress import Progress
from verify.engine.report import Counts, Report
from verify.engine.result import Result
from verify.engine.summary import summary
from verify.target.fingerprint import identity
from verify.target.naming import Target

#: Goes to the beginning of the line and takes away what is there.
_OVER = "\r\x1b[K"


def header(options: Options[Target]) -> list[str]:
    """What is judged, and how, as lines of text."""
    named = identity(options.target)
    commit = f", commit {named['sam3']['commit']}" if named["sam3"]["commit"] else ""
    lines = [
        f"target: {options.target.spec} ({named['origin']})",
        f"sam3: {named['sam3']['version']}{commit} ({named['sam3']['folder']})",
    ]
    if len(options.subjects) > 1 or len(named["subjects"]) > 1:
        lines.append(f"subjects: {', '.join(subject.subject_name for subject in options.subjects)}")
    known = (
        f"{options.known_from} ({len(options.known)} entries)" if options.known_from else "upstream's, where inherited"
    )
    known = known if options.inherits else "none"
    seed = f", seed {options.seed}" if options.profile.randomised else ""
    lines.append(f"known failures: {known}; profile: {options.profile.name}{seed}")
    return lines


class Account:
    """Writes the progress of a verification, in place of pytest's own, and the report at the end."""

    def __init__(self, config: pytest.Config, checks: Mapping[str, Any], total: int) -> None:
        self.verbose = config.option.verbose > 0
        self.checks = checks
        self.reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self.live: TextIO | None = None
        if self.reporter is not None and self.reporter.isatty and not self.verbose:
            # A file of its own: while a check is made, what is written to the terminal is captured.
            self.live = os.fdopen(os.dup(self.reporter._tw._file.fileno()), "w")
            config.add_cleanup(self.live.close)
        self.progress = Progress(total, self._over if self.live else self._line, live=self.live is not None)

    def _over(self, text: str) -> None:
        assert self.live is not None  # else lines are shown
        self.live.write(_OVER + text[: shutil.get_terminal_size().columns - 1])
        self.live.flush()

    def _line(self, text: str) -> None:
        if self.reporter is not None and not self.verbose:
            self.reporter.ensure_newline()
            self.reporter.write_line(text)

    def alone(self) -> None:
        """Nothing but checks is run: pytest need not say which file it has come to."""
        if self.reporter is not None and not self.verbose:
            self.reporter.showfspath = False
            self.reporter._show_progress_info = False

    def case(self) -> None:
        self.progress.case()

    def result(self, result: Result, from_worker: bool) -> None:
        """A check has ended; of those made by a worker cases are known now only."""
        if from_worker:
            self.progress.cases += result.cases
        self.progress.end()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        name, _, parameters = nodeid.rpartition("::")[2].partition("[")
        if name in self.checks:
            launcher, _, subject = parameters.rstrip("]").partition("-")
            self.progress.begin(f"{name} on {launcher}" + (f" [{subject}]" if subject else ""))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        if not _of_a_check(report):
            return None
        report._pdbshown = True  # pytest leaves it out of its section of failures then; the report has them
        if self.verbose:
            return None
        return "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome, "", ""

    def clear(self) -> None:
        """No more progress is written."""
        if self.live is not None:
            self.live.write(_OVER)
            self.live.flush()

    def write(self, report: Report, counts: Counts) -> None:
        """Write the report into pytest's summary."""
        self.reporter.section("verification")
        for line in summary(report, counts, everything=self.verbose):
            self.reporter.write_line(line)
        if not self.verbose and all(_of_a_check(failure) for failure in self.reporter.stats.get("failed", ())):
            self.reporter.reportchars = self.reporter.reportchars.replace("f", "")


#: Name of the property of pytest's reports that holds a check's result.
RESULT = "verify"


def _of_a_check(report: Any) -> bool:
    return report.when == "call" and any(name == RESULT for name, _ in report.user_properties)
