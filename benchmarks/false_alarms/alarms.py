"""False alarms: the gate on what is right, again and again, with other cases each time.

    python -m benchmarks.false_alarms [--seeds N] [--target NAME] [--only GROUP[,GROUP]] [--profile quick]
                                      [--workers N] [--load] [--keep FILE]

Each seed is a run of the gate in a process of its own: ``python -m pytest verify --seed S``. Targets are those of
``fixtures.forks.right``: sam3 with what is known of it, the corrected recipe, whose hazards count, and every variant
that conforms. ``--target`` takes a part of a name, ``--workers`` xdist's number; ``--load`` keeps every core busy
meanwhile. A run that ends with another status than 0 is an alarm: it is printed with its seed and what failed, and
``--keep`` writes it down, a line of JSON each.

Prints a row for each target: runs, checks that were made in them, cases that were compared, alarms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fixtures.forks.right import Right, right_targets

ROOT = Path(__file__).resolve().parents[1]
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


def run(right: Right, seed: int, only: Sequence[str], profile: str, workers: int) -> Judged:
    """Judge a target once, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", "verify", *right.options, "--only", ",".join(only)]
        command += ["--seed", str(seed), "--profile", profile, "--report", str(path), "-p", "no:cacheprovider"]
        if right.name == "reference":
            command += ["--hazards", "fail"]
        if workers:
            command += ["-n", str(workers)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        report = json.loads(path.read_text()) if path.exists() else None
    checks = report["checks"] if report else []
    made = [check for check in checks if check["cases"]]
    alarms = alarms_in(right.name, seed, done.returncode, report, done.stdout + done.stderr)
    return Judged(right.name, 1, len(made), sum(check["cases"] for check in made), tuple(alarms))


def _spin() -> None:
    while True:
        pass


@contextmanager
def loaded(load: bool) -> Iterator[None]:
    """Keep every core busy."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=_spin, daemon=True) for _ in range(os.cpu_count() or 1)] if load else []
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--target", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


def main() -> int:
    options = _options()
    asked = options.only.split(",") if options.only else []
    totals: list[Judged] = []
    print(f"{'target':<60}  runs  checks   cases  alarms")
    with loaded(options.load):
        for right in right_targets():
            only = [group for group in right.groups if not asked or group in asked]
            if options.target not in right.name or not only:
                continue
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            judged = [run(right, seed, only, options.profile, options.workers) for seed in seeds]
            alarms = [alarm for each in judged for alarm in each.alarms]
            total = Judged(
                right.name,
                len(judged),
                sum(each.checks for each in judged),
                sum(each.cases for each in judged),
                tuple(alarms),
            )
            totals.append(total)
            print(
                f"{total.target:<60}  {total.runs:>4}  {total.checks:>6}  {total.cases:>6}  {len(alarms):>6}",
                flush=True,
            )
            for alarm in alarms:
                print(
                    f"  seed {alarm.seed}: {alarm.check} {alarm.outcome}: {alarm.message}\n    {alarm.replay}",
                    flush=True,
                )
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(asdict(alarm)) + "\n")
    alarms_in_all = sum(len(total.alarms) for total in totals)
    print(f"{alarms_in_all} false alarms in {sum(total.cases for total in totals)} cases of {len(totals)} targets")
    return 1 if alarms_in_all or not totals else 0


if __name__ == "__main__":
    sys.exit(main())
