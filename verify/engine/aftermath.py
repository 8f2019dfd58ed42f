"""The report of a verification whose process has ended without a verdict, made from its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fixtures.ranks.stacks import dumped_text
from verify.engine import report as reports
from verify.engine.finding import Violation
from verify.engine.journal import UnderWay, pages, read_plan, read_results, read_stack, read_threads
from verify.engine.result import BLOCKED, FAILED, FAILURES, Result, result_from_json
from verify.engine.summary import summary
from verify.engine.written import write_files


@dataclass(frozen=True)
class Named:
    """What is planned of a check."""

    name: str
    group: str
    kind: str
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a verification was asked for, and what its report says beside results."""

    #: In words, what is done where no check is made, as what follows "while".
    doing: str
    target: Mapping[str, Any]
    environment: Mapping[str, Any]
    planned: tuple[reports.Planned, ...]
    counts: reports.Counts
    #: The file for the report.
    report: str | None
    #: For how many seconds nothing may change in the journal.
    patience: float
    #: The file for the page.
    page: str | None = None

    def as_json(self) -> dict[str, Any]:
        planned = [
            {
                "check": asdict(Named(plan.check.name, plan.check.group, plan.check.kind, plan.check.rests_on)),
                "subject": plan.subject,
                "parts": plan.parts,
                "known": plan.known,
            }
            for plan in self.planned
        ]
        return {
            "doing": self.doing,
            "target": dict(self.target),
            "environment": dict(self.environment),
            "planned": planned,
            "counts": asdict(self.counts),
            "report": self.report,
            "patience": self.patience,
            "page": self.page,
        }


def _plan(data: Mapping[str, Any]) -> Plan:
    planned = tuple(
        reports.Planned(
            Named(**{**entry["check"], "rests_on": tuple(entry["check"]["rests_on"])}),
            entry["subject"],
            entry["parts"],
            entry["known"],
        )
        for entry in data["planned"]
    )
    counts = reports.Counts(**{**data["counts"], "required": tuple(data["counts"]["required"])})
    return Plan(**{**data, "planned": planned, "counts": counts})


def ended(under_way: UnderWay, what: str, details: str = "") -> Result:
    """The result of a check in which the process was ended."""
    finding = under_way.finding(Violation(f"{what}, while {under_way.doing}", details=details))
    return Result(under_way.check, under_way.group, under_way.kind, FAILED, finding=finding, subject=under_way.subject)


def stack_at_end(folder: Path, name: str) -> str:
    """The stack of a fault that a process has ended with, where it could still write one."""
    threads = read_stack(folder, name).split("\n\n")
    current = next((thread for thread in threads if thread.startswith("Current thread")), "")
    return dumped_text(current) or current


def _blocked(planned: Iterable[reports.Planned], parts: Sequence[Result], failed: Result) -> list[Result]:
    """Results of checks that gave none, and rest on what has failed; that is among them which it was made for."""
    done = {(part.check, part.subject) for part in parts}
    message = failed.finding.message if failed.finding else failed.reason
    return [
        Result(
            plan.check.name,
            plan.check.group,
            plan.check.kind,
            BLOCKED,
            reason=f"rests on {failed.check}, which fails: {message}",
            subject=plan.subject,
            blocked_by=failed.check,
        )
        for plan in planned
        if failed.check in plan.check.rests_on
        and plan.subject == failed.subject
        and (plan.check.name, plan.subject) not in done
        for _ in range(plan.parts)
    ]


def conclude(
    folder: Path,
    how: str,
    by_target: bool,
    publish: Callable[[reports.Report, reports.Counts], None] | None = None,
) -> list[str]:
    """Write the report of a verification whose process has ended, and give it as lines of text.

    ``how`` it has ended follows the name of the process.
    ``by_target``: whether that is held against the target, and not the doing of somebody outside.
    ``publish``: what is done with the report beside, given what it counts.
    """
    what = f"the process that judges {how}"
    data = read_plan(folder)
    if data is None:
        return [f"ERROR: {what}, before it had read its options"]
    plan = _plan(data)
    parts = [result_from_json(line) for line in read_results(folder)]
    found: list[Result] = []
    if by_target:
        found = [
            ended(page.under_way, what, stack_at_end(folder, page.name))
            for page in pages(folder)
            if page.under_way is not None
        ]
        found = found or _of_threads(folder, what)
    for result in found:
        parts = [part for part in parts if (part.check, part.subject) != (result.check, result.subject)]
        parts += [result] * next((plan.parts for plan in plan.planned if plan.check.name == result.check), 1)
    for result in [part for part in parts if part.outcome in FAILURES]:
        parts += _blocked(plan.planned, parts, result)
    results, verdict, because = reports.conclude(plan.planned, parts, plan.counts)
    notes: tuple[str, ...] = ()
    if not found:
        notes = (f"{what[0].upper()}{what[1:]}, while {plan.doing}.",)
        if by_target:
            verdict, because = reports.VIOLATES, what
    report = reports.Report(plan.target, plan.environment, results, verdict, because, notes)
    no_page = write_files(report, Path(plan.report) if plan.report else None, Path(plan.page) if plan.page else None)
    if publish is not None:
        publish(report, plan.counts)
    lines = ["", " verification ".center(80, "="), *summary(report, plan.counts)]
    return [*lines, f"ERROR: {no_page}"] if no_page else lines


def _of_threads(folder: Path, what: str) -> list[Result]:
    """Results of the checks in which threads have begun that keep the process from ending."""
    results = {
        (under_way.check, under_way.subject): ended(
            replace(under_way, doing="it was about to end"), f"{what} ({', '.join(names)})"
        )
        for names, under_way in reversed(read_threads(folder))
    }
    return list(results.values())
