"""The report of a verification: what ran, how it ended, and the verdict."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from verify.engine.check import HAZARD, Check
from verify.engine.result import (
    FAILED,
    FAILURES,
    MISSING,
    NOT_PROVIDED,
    NOT_TRIGGERED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Result,
    merged,
)

CONFORMS, VIOLATES, INCOMPLETE = "conforms", "violates", "incomplete"


@dataclass(frozen=True)
class Report:
    """One verification of one target."""

    #: What was verified: at least ``spec``, as the command line named it.
    target: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: tuple[Result, ...]
    verdict: str
    #: One sentence that says what the verdict rests on.
    because: str
    #: What was not verified, a sentence each.
    notes: tuple[str, ...] = ()
    #: What holds whatever the verdict, with what was measured, a sentence each.
    statements: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether a gate lets the target through."""
        return not _failures(self.results, self.verdict)

    def as_json(self) -> dict[str, Any]:
        return {
            "target": dict(self.target),
            "environment": dict(self.environment),
            "verdict": self.verdict,
            "because": self.because,
            "notes": list(self.notes),
            "statements": list(self.statements),
            "checks": [
                {
                    "name": result.check,
                    "group": result.group,
                    "kind": result.kind,
                    "outcome": result.outcome,
                    "cases": result.cases,
                    "seconds": round(result.seconds, 3),
                    "reason": result.reason,
                    "finding": _finding(result),
                }
                for result in self.results
            ],
        }


def environment(backend: str, world_size: int | None, profile: str, seed: int) -> dict[str, Any]:
    """What a result may depend on: versions, devices, ranks, profile."""
    versions = {}
    for package in ("sam3", "torch", "torchvision", "numpy", "hypothesis", "pytest"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "cuda_devices": torch.cuda.device_count(),
        "backend": backend,
        "torchrun_world_size": world_size,
        "profile": profile,
        "seed": seed,
    }


def _finding(result: Result) -> dict[str, Any] | None:
    """A result's finding; under its former name, too, what its ranks were launched by."""
    return {**result.finding.as_json(), "carrier": result.finding.launcher} if result.finding else None


def _failures(results: Iterable[Result], verdict: str) -> bool:
    return verdict == VIOLATES or any(result.outcome == MISSING for result in results)


def conclude(
    selected: Mapping[str, Check],
    parts: Sequence[Result],
    hazards_fail: bool,
    expected_parts: Mapping[str, int],
    known: Collection[str] = (),
) -> tuple[tuple[Result, ...], str, str]:
    """Give the result of every selected check, the verdict and its reason.

    A check with fewer parts than launchers it runs on is ``missing``: it disappeared, and is not taken for passed.
    One that is among the ``known`` failures and passed all the same did so because no case met the condition of
    its entry: the entry is stale, and counts as ``xpassed``.
    """
    results = []
    for name, check in selected.items():
        of_check = [part for part in parts if part.check == name]
        if len(of_check) < expected_parts[name]:
            of_check.append(Result(name, check.group, check.kind, MISSING, reason="gave no result"))
        result = merged(of_check)
        if name in known and result.outcome == PASSED:
            result = replace(result, outcome=XPASSED, reason="listed as known, but no case met the entry's condition")
        results.append(result)
    judged = [result for result in results if result.kind != HAZARD or hazards_fail]
    bad = [result for result in judged if result.outcome in FAILURES - {MISSING}]
    if bad:
        counts = [
            f"{number} {word}"
            for outcome, word in (
                (FAILED, "failed"),
                (XPASSED, "passed though listed as known to fail"),
                (NOT_TRIGGERED, "had nothing to compare"),
            )
            if (number := sum(result.outcome == outcome for result in bad))
        ]
        return tuple(results), VIOLATES, ", ".join(counts)
    if missing := [result.check for result in results if result.outcome == MISSING]:
        because = f"{len(missing)} of {len(results)} checks gave no result ({missing[0]} …); select with --only"
        return tuple(results), INCOMPLETE, because
    # A hazard of the same name in another outcome is shown, and does not count.
    unknown = [result for result in judged if result.outcome in (SKIPPED, NOT_PROVIDED)]
    if unknown:
        because = f"nothing violated, but {len(unknown)} of {len(judged)} checks could not be made"
        return tuple(results), INCOMPLETE, because
    listed = sum(result.outcome == XFAILED for result in judged)
    passed = f"{len(judged) - listed} checks passed"
    return tuple(results), CONFORMS, passed + (f", {listed} known failure{'s' * (listed > 1)}" if listed else "")


def write(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


def summary(report: Report, hazards_fail: bool) -> list[str]:
    """The report as lines of text: a table of checks, remarks, the verdict."""
    rows = [("check", "outcome", "cases", "seconds")]
    for result in report.results:
        hazard = " (hazard)" if result.kind == HAZARD else ""
        rows.append((result.check, result.outcome + hazard, str(result.cases), f"{result.seconds:.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {outcome:<{widths[1]}}  {cases:>{widths[2]}}  {seconds:>{widths[3]}}"
        for name, outcome, cases, seconds in rows
    ]
    reasons = {result.reason: result for result in report.results if result.reason}
    for reason in reasons:
        names = ", ".join(result.check for result in report.results if result.reason == reason)
        lines.append(f"{reasons[reason].outcome}: {names}: {reason}")
    open_hazards = [result.check for result in report.results if result.kind == HAZARD and result.outcome in FAILURES]
    if open_hazards and not hazards_fail:
        lines.append(f"hazards, which today's callers avoid (--hazards fail to count them): {', '.join(open_hazards)}")
    lines += [*report.notes, *report.statements]
    lines.append(f"verdict: {report.target['spec']} {report.verdict}: {report.because}")
    return lines
