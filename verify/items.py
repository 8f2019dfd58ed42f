"""The checks as pytest's items: their order, judging one, and gathering how each ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from verify.engine.aftermath import ended, stack_at_end
from verify.engine.check import HAZARD, PROCESSES, Check
from verify.engine.journal import pages
from verify.engine.judge import Gate
from verify.engine.result import (
    BLOCKED,
    FAILED,
    INHERITED,
    NOT_APPLICABLE,
    NOT_PROVIDED,
    PASSED,
    SKIPPED,
    XFAILED,
    result_from_json,
)
from verify.groups import GROUPS, registered
from verify.session import Session
from verify.target.naming import Target
from verify.terminal import RESULT


def check_of(item: pytest.Item) -> Check | None:
    """The check that an item stands for; None for a test of the suite's own."""
    return getattr(getattr(item, "function", None), "check", None)


def is_on_processes(item: pytest.Item) -> bool:
    return check_of(item) is not None and item.callspec.params["launcher"] == PROCESSES  # type: ignore[attr-defined]


def order(item: pytest.Item) -> tuple[bool, bool, int]:
    """Sorts tests before checks and keeps their order, and checks by launcher and group."""
    check = check_of(item)
    return check is not None, is_on_processes(item), GROUPS.index(check.group) if check else 0


@dataclass(frozen=True)
class GateOfItem:
    """Judges the check that a pytest item stands for, and gives its outcome in pytest's terms."""

    session: Session
    item: pytest.Item

    def run(self, check: Check, launcher: str, subject: Target) -> None:
        options, session = self.session.options, self.session
        session.judging = subject
        session.journal.item = (check.name, self.item.nodeid)
        gate = Gate(
            subject,
            session.launchers,
            options.profile,
            session.known(subject),
            options.world_sizes,
            options.seed,
            options.case,
            registered(),
            session.judged,
            session.journal,
            on_case=session.account.case if session.account else None,
            changed=session.changed(subject),
        )
        result = replace(gate.judge(check, launcher), subject=subject.subject_name)
        self.item.user_properties.append((RESULT, result.as_json()))
        text = result.finding.render() if result.finding else f"{result.check}: {result.reason}"
        if result.outcome == PASSED:
            return
        if result.outcome in (SKIPPED, NOT_PROVIDED, NOT_APPLICABLE, BLOCKED):
            pytest.skip(f"{result.outcome}: {result.reason}")
        if result.outcome == XFAILED or (result.outcome == INHERITED and not options.counts.bad(result)):
            _expected(result.reason)
        if check.kind == HAZARD and not options.counts.hazards:
            _expected(f"hazard: {text}")
        if result.outcome in (FAILED, INHERITED) and result.reason:
            text = f"{result.reason}\n{text}"
        pytest.fail(text, pytrace=False)


def _expected(reason: str) -> None:
    """End a check as ``pytest.xfail`` does, without its stack: that is the gate's own, and drawing it takes 0.1 s."""
    try:
        pytest.xfail(reason)
    except pytest.xfail.Exception as error:
        error.pytrace = False
        raise


class Collector:
    """Gathers results from reports of items, which may come from other processes."""

    def __init__(self, session: Session, from_workers: bool) -> None:
        self.session, self.from_workers = session, from_workers

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == RESULT and isinstance(value, dict):
                    self._add(value)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Give a check its result whose worker was ended; xdist starts another worker for the rest."""
        folder = self.session.journal.folder
        if folder is None:
            return
        for page in pages(folder):
            if page.under_way is not None and page.under_way.item == crashitem:
                result = ended(page.under_way, "a worker of xdist was ended", stack_at_end(folder, page.name))
                self._add(result.as_json())
                text = result.finding.render() if result.finding else ""
                report.longrepr = f"{report.longrepr}\n{text}"

    def _add(self, result: dict[str, Any]) -> None:
        self.session.parts.append(result_from_json(result))
        self.session.journal.add(result)
        if self.session.account is not None:
            self.session.account.result(self.session.parts[-1], from_worker=self.from_workers)
