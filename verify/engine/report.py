"""The report of a verification: what ran, how it ended, and the verdict."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from fixtures.ranks import gpus
from verify.engine.check import HAZARD
from verify.engine.result import (
    BLOCKED,
    FAILED,
    FAILURES,
    INHERITED,
    MISSING,
    NOT_APPLICABLE,
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
class Counts:
    """Which outcomes count against a target, beside requirements that are violated."""

    hazards: bool = False
    inherited: bool = False
    #: Checks that are to be made: one that cannot be counts.
    required: tuple[str, ...] = ()

    def judged(self, result: Result) -> bool:
        return result.kind != HAZARD or self.hazards

    def bad(self, result: Result) -> bool:
        """Whether a result violates."""
        counted = FAILURES - {MISSING} | ({INHERITED} if self.inherited else set())
        return self.judged(result) and result.outcome in counted

    def lacks(self, result: Result) -> bool:
        """Whether a check could not be made that is required."""
        return result.check in self.required and result.outcome in (SKIPPED, NOT_PROVIDED)


@dataclass(frozen=True)
class Cause:
    """A check that failed, and the checks that could not tell anything because of it."""

    check: str
    message: str
    blocks: tuple[str, ...]


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
    def title(self) -> str:
        """What the verdict is about, in words."""
        return str(self.target.get("title", self.target["spec"]))

    @property
    def passes(self) -> bool:
        """Whether a gate lets the target through."""
        return self.verdict != VIOLATES and not any(result.outcome == MISSING for result in self.results)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What blocks checks, each with what it blocks."""
        blocked: dict[str, list[str]] = {}
        reasons: dict[str, str] = {}
        for result in self.results:
            if result.outcome == BLOCKED:
                blocked.setdefault(result.blocked_by, []).append(result.check)
                reasons[result.blocked_by] = result.reason.partition("which fails: ")[2]
        return tuple(Cause(check, reasons[check], tuple(names)) for check, names in blocked.items())

    def as_json(self) -> dict[str, Any]:
        return {
            "target": dict(self.target),
            "environment": dict(self.environment),
            "verdict": self.verdict,
            "because": self.because,
            "causes": [asdict(cause) for cause in self.causes],
            "notes": list(self.notes),
            "statements": list(self.statements),
            "checks": [
                {
                    "name": result.check,
                    "group": result.group,
                    "kind": result.kind,
                    "subject": result.subject,
                    "outcome": result.outcome,
                    "cases": result.cases,
                    "seconds": round(result.seconds, 3),
                    "reason": result.reason,
                    "blocked_by": result.blocked_by,
                    "finding": _finding(result),
                    **_pictures(result),
                }
                for result in self.results
            ],
        }


def environment(backend: str, world_size: int | None, profile: str, seed: int) -> dict[str, Any]:
    """What a result may depend on: versions, the GPUs that may be computed on, ranks, profile."""
    versions = {}
    for package in ("torch", "torchvision", "numpy", "hypothesis", "pytest"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "cuda_devices": gpus.count() if backend == "nccl" else 0,
        "backend": backend,
        "torchrun_world_size": world_size,
        "profile": profile,
        "seed": seed,
    }


def _finding(result: Result) -> dict[str, Any] | None:
    """A result's finding; under its former name, too, what its ranks were launched by."""
    return {**result.finding.as_json(), "carrier": result.finding.launcher} if result.finding else None


def _pictures(result: Result) -> dict[str, Any]:
    """A result's pictures, where it has any: a report without them is as it was before there were any."""
    return {"pictures": [asdict(picture) for picture in result.pictures]} if result.pictures else {}


class Named(Protocol):
    """What of a check its result repeats."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rests_on(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Planned:
    """A check that is to be made, of a subject, in so many parts."""

    check: Named
    subject: str
    parts: int
    #: Whether it is listed as known to fail, and every case of it is run.
    known: bool = False


def conclude(
    planned: Iterable[Planned], parts: Sequence[Result], counts: Counts
) -> tuple[tuple[Result, ...], str, str]:
    """Give the result of every planned check, the verdict and its reason.

    A check with fewer parts than launchers it runs on is ``missing``: it disappeared, and is not taken for passed.
    One that is known to fail and passed all the same did so because no case met the condition of its entry: the entry
    is stale, and counts as ``xpassed``. A check that is blocked by one which was not made violates in its place.
    """
    results = []
    for plan in planned:
        check = plan.check
        of_check = [part for part in parts if (part.check, part.subject) == (check.name, plan.subject)]
        if len(of_check) < plan.parts:
            missing = Result(
                check.name, check.group, check.kind, MISSING, reason="gave no result", subject=plan.subject
            )
            of_check.append(missing)
        result = merged(of_check)
        if plan.known and result.outcome == PASSED:
            result = replace(result, outcome=XPASSED, reason="listed as known, but no case met the entry's condition")
        results.append(result)
    made = {result.check for result in results}
    judged = [result for result in results if counts.judged(result)]
    bad = [result for result in judged if counts.bad(result)]
    bad += [result for result in results if counts.lacks(result)]
    bad += [result for result in judged if result.outcome == BLOCKED and result.blocked_by not in made]
    inherited = _inherited(judged)
    if bad:
        return tuple(results), VIOLATES, _violations(bad, judged)
    if missing_checks := [result.check for result in results if result.outcome == MISSING]:
        because = (
            f"{len(missing_checks)} of {len(results)} checks gave no result ({missing_checks[0]} …); select with --only"
        )
        return tuple(results), INCOMPLETE, because
    # A hazard of the same name in another outcome is shown, and does not count.
    unknown = [result for result in judged if result.outcome in (SKIPPED, NOT_PROVIDED, BLOCKED)]
    if unknown:
        because = f"nothing violated{inherited}, but {len(unknown)} of {len(judged)} checks could not be made"
        return tuple(results), INCOMPLETE, because
    if all(result.outcome == NOT_APPLICABLE for result in judged):
        nothing = f"none of {len(judged)} checks applies" if judged else "hazards alone were looked for"
        return tuple(results), INCOMPLETE, f"nothing was required: {nothing}"
    listed = sum(result.outcome == XFAILED for result in judged)
    passed = sum(result.outcome == PASSED for result in judged)
    text = f"{passed} check{'s' * (passed != 1)} passed{inherited}"
    return tuple(results), CONFORMS, text + (f", {listed} known failure{'s' * (listed > 1)}" if listed else "")


def _inherited(judged: Iterable[Result]) -> str:
    """What of the results is inherited, as what follows a statement; "" where nothing is."""
    releases = [
        result.reason.removeprefix("inherited from ").partition(":")[0]
        for result in judged
        if result.outcome == INHERITED
    ]
    if not releases:
        return ""
    names = " and ".join(dict.fromkeys(releases))
    return f" but for {len(releases)} defect{'s' * (len(releases) > 1)} inherited from {names}"


def _violations(bad: Sequence[Result], judged: Iterable[Result]) -> str:
    blocked = sum(result.outcome == BLOCKED for result in judged)
    numbers = [
        (FAILED, "failed"),
        (XPASSED, "passed though listed as known to fail"),
        (NOT_TRIGGERED, "had nothing to compare"),
        (INHERITED, "failed as upstream's own code does"),
        (NOT_PROVIDED, "required and not provided"),
        (SKIPPED, "required and skipped"),
    ]
    counted = [
        f"{number} {word}" for outcome, word in numbers if (number := sum(result.outcome == outcome for result in bad))
    ]
    return ", ".join([*counted, *([f"{blocked} blocked by what fails"] if blocked else [])])


def write(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
