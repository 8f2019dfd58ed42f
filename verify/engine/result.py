"""How a check ended: the outcomes, the result of one part of a check, and of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from verify.engine.finding import Finding
from verify.engine.picture import Picture
from verify.engine.place import place_from_json

PASSED = "passed"
FAILED = "failed"
#: Fails as upstream's own code does, which the target has not changed.
INHERITED = "inherited"
XFAILED = "xfailed"
XPASSED = "xpassed"
NOT_PROVIDED = "not_provided"
#: Does not promise what the check is about, so that nothing is missing.
NOT_APPLICABLE = "not_applicable"
SKIPPED = "skipped"
#: Could not tell anything, because the check that it rests on fails.
BLOCKED = "blocked"
NOT_TRIGGERED = "not_triggered"
#: A registered check from which no result came.
MISSING = "missing"

#: Worst first: the outcome of a check is the worst of its parts'.
OUTCOMES = (
    FAILED,
    MISSING,
    NOT_TRIGGERED,
    XPASSED,
    BLOCKED,
    XFAILED,
    INHERITED,
    SKIPPED,
    NOT_PROVIDED,
    PASSED,
    NOT_APPLICABLE,
)
#: Outcomes that make a gate fail.
FAILURES = frozenset({FAILED, MISSING, NOT_TRIGGERED, XPASSED})


@dataclass(frozen=True)
class Result:
    """How a check, or its part on one launcher, ended."""

    check: str
    group: str
    kind: str
    outcome: str
    cases: int = 0
    seconds: float = 0.0
    finding: Finding | None = None
    #: Why it was skipped, not provided or known to fail.
    reason: str = ""
    #: Of several classes and buffers the one that was looked at; "" where the target has but one, or the check no part.
    subject: str = ""
    #: The check that blocks this one.
    blocked_by: str = ""
    #: False for a part that no case can be drawn for, such as one that needs several ranks where there is one.
    applicable: bool = True
    #: What there is to be seen, of the case that the finding is about, or of one that passed.
    pictures: tuple[Picture, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def result_from_json(data: Mapping[str, Any]) -> Result:
    """Read what ``Result.as_json`` wrote, as xdist's workers send it."""
    finding = data.get("finding")
    if finding:
        table = tuple(tuple(row) for row in finding["table"])
        finding = Finding(**{**finding, "table": table, "place": place_from_json(finding.get("place"))})
    pictures = tuple(Picture(**picture) for picture in data.get("pictures", ()))
    return Result(**{**data, "finding": finding or None, "pictures": pictures})


def merged(parts: Iterable[Result]) -> Result:
    """One result of the parts of one check: the worst outcome, with the finding and the reason that belong to it.

    A part that could not apply says nothing where another part does.
    """
    everything = tuple(parts)
    telling = [part for part in everything if part.applicable] or everything
    ordered = sorted(telling, key=lambda part: OUTCOMES.index(part.outcome))
    worst = ordered[0]
    return Result(
        worst.check,
        worst.group,
        worst.kind,
        worst.outcome,
        sum(part.cases for part in ordered),
        sum(part.seconds for part in ordered),
        worst.finding,
        worst.reason,
        worst.subject,
        worst.blocked_by,
        pictures=next((part.pictures for part in ordered if part.outcome == worst.outcome and part.pictures), ()),
    )
