"""What a run of the gate holds against a target."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.forks.right import Right
from tests.commands import Run

#: Outcomes that a right target may have: a check is made and passes, or is about what the target has not.
RIGHT = frozenset({"passed", "inherited", "not_provided", "not_applicable"})


@dataclass(frozen=True)
class Alarm:
    """Something that the gate holds against what is right."""

    target: str
    seed: int
    #: The check, "" where there is no report.
    check: str
    outcome: str
    message: str
    replay: str


@dataclass(frozen=True)
class Judged:
    """What came of some runs."""

    target: str
    runs: int
    checks: int
    cases: int
    alarms: tuple[Alarm, ...]


def alarms_in(target: str, seed: int, status: int, report: dict[str, Any] | None, said: str) -> list[Alarm]:
    """What is held against a target in a run that ended so; a report that is not there is an alarm itself."""
    if report is None:
        return [Alarm(target, seed, "", f"status {status}", said[-2000:], "")]
    alarms = []
    for check in report["checks"]:
        counted = check["kind"] == "requirement" or target == "reference"
        if counted and check["outcome"] not in RIGHT:
            finding = check["finding"] or {"message": check["reason"], "replay": ""}
            alarms.append(Alarm(target, seed, check["name"], check["outcome"], finding["message"], finding["replay"]))
    if status not in (0, 5) and not alarms:
        alarms.append(Alarm(target, seed, "", f"status {status}", said[-2000:], ""))
    return alarms


@dataclass(frozen=True)
class How:
    """How the gate is run."""

    only: tuple[str, ...]
    profile: str = "quick"
    #: One launcher for all checks, or "" for each check's own.
    launcher: str = ""
    #: xdist's number of workers; 0 for none.
    workers: int = 0


def judge(run: Run, right: Right, seed: int, how: How) -> Judged:
    """Judge a target once, with cases and an order of checks of the seed's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        options = [*right.options, "--only", ",".join(how.only), "--seed", str(seed), "--profile", how.profile]
        options += ["--report", str(path), "-p", "no:cacheprovider", "-p", "benchmarks.shuffled", "--timeout", "0"]
        if right.name == "reference":
            options += ["--hazards", "fail"]
        if how.launcher:
            options += ["--launcher", how.launcher]
        if how.workers:
            options += ["-n", str(how.workers)]
        try:
            done = run("pytest", "verify", *options, SHUFFLED=str(seed))
        except (TimeoutError, RuntimeError) as error:  # the process hangs, or is left before its end
            return Judged(right.name, 1, 0, 0, (Alarm(right.name, seed, "", "no end", str(error)[-2000:], ""),))
        report = json.loads(path.read_text()) if path.exists() else None
    checks = report["checks"] if report else []
    made = [check for check in checks if check["cases"]]
    alarms = alarms_in(right.name, seed, done.status, report, done.out + done.err)
    return Judged(right.name, 1, len(made), sum(check["cases"] for check in made), tuple(alarms))


def put_together(judged: Sequence[Judged]) -> Judged:
    """What came of all runs of one target."""
    return Judged(
        judged[0].target,
        sum(each.runs for each in judged),
        sum(each.checks for each in judged),
        sum(each.cases for each in judged),
        tuple(alarm for each in judged for alarm in each.alarms),
    )
