"""What of a report goes where on its page: what did not pass, hazards, what is inherited or known, what passed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verify.page.reading import Check, Picture, Report

#: In words, and with a shape that tells outcomes apart without their colours: word, shape, and how bad it is.
OUTCOMES = {
    "passed": ("passed", "✓", "good"),
    "failed": ("failed", "✕", "bad"),
    "inherited": ("inherited", "↑", "mild"),
    "xfailed": ("known failure", "≈", "mild"),
    "xpassed": ("known, but passes", "✕", "bad"),
    "blocked": ("blocked", "■", "open"),
    "not_applicable": ("not applicable", "\N{EN DASH}", "plain"),
    "not_provided": ("not provided", "○", "open"),
    "skipped": ("skipped", "○", "open"),
    "not_triggered": ("nothing to compare", "✕", "bad"),
    "missing": ("no result", "✕", "bad"),
    "hazard": ("hazards", "▲", "mild"),
}
#: What is unknown here did not pass.
_UNKNOWN = ("", "?", "bad")
VERDICTS = {"conforms": ("✓", "good"), "violates": ("✕", "bad"), "incomplete": ("◐", "open")}
#: What could not be told, or has nothing to tell.
_OPEN = ("blocked", "not_provided", "skipped", "not_applicable")


@dataclass(frozen=True)
class Reason:
    """Why checks were not made, and which."""

    outcome: str
    reason: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Group:
    name: str
    checks: tuple[Check, ...]

    @property
    def cases(self) -> int:
        return sum(check.cases for check in self.checks)

    @property
    def seconds(self) -> float:
        return sum(check.seconds for check in self.checks)

    @property
    def pictured(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.pictures)


@dataclass(frozen=True)
class Sections:
    failures: tuple[Check, ...]
    hazards: tuple[Check, ...]
    inherited: tuple[Check, ...]
    known: tuple[Check, ...]
    open: tuple[Reason, ...]
    passed: tuple[Group, ...]
    #: How many checks ended in which way, hazards that failed apart.
    counts: tuple[tuple[str, int], ...]


def sections(report: Report) -> Sections:
    """Sort a report's checks; an outcome that is unknown here did not pass."""
    told = [check for check in report.checks if check.outcome not in (*_OPEN, "passed", "inherited", "xfailed")]
    return Sections(
        failures=tuple(check for check in told if check.kind != "hazard"),
        hazards=tuple(check for check in told if check.kind == "hazard"),
        inherited=tuple(check for check in report.checks if check.outcome == "inherited"),
        known=tuple(check for check in report.checks if check.outcome == "xfailed"),
        open=_reasons(check for check in report.checks if check.outcome in _OPEN),
        passed=_groups([check for check in report.checks if check.outcome == "passed"]),
        counts=_counts(report.checks),
    )


def _reasons(checks: Iterable[Check]) -> tuple[Reason, ...]:
    found: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        found.setdefault((check.outcome, check.reason), []).append(check)
    ordered = sorted(found.items(), key=lambda item: _OPEN.index(item[0][0]))
    return tuple(Reason(outcome, reason, tuple(of)) for (outcome, reason), of in ordered)


def _groups(checks: Sequence[Check]) -> tuple[Group, ...]:
    names = dict.fromkeys(check.group for check in checks)
    return tuple(Group(name, tuple(check for check in checks if check.group == name)) for name in names)


def _counts(checks: Iterable[Check]) -> tuple[tuple[str, int], ...]:
    numbers: dict[str, int] = {}
    for check in checks:
        outcome = (
            "hazard" if check.kind == "hazard" and OUTCOMES.get(check.outcome, _UNKNOWN)[2] == "bad" else check.outcome
        )
        numbers[outcome] = numbers.get(outcome, 0) + 1
    order = list(OUTCOMES)
    known = sorted(numbers, key=lambda outcome: order.index(outcome) if outcome in order else len(order))
    return tuple((outcome, numbers[outcome]) for outcome in known)


def pictured(report: Report) -> tuple[tuple[Check, Picture], ...]:
    """All pictures of a report, those of what did not pass first."""
    worst_first = sorted(report.checks, key=lambda check: check.outcome == "passed")
    return tuple((check, picture) for check in worst_first for picture in check.pictures)
