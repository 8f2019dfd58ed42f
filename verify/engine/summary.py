"""The report as lines of text: what did not pass, causes first; the groups, a line each; the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from verify.engine.check import HAZARD
from verify.engine.report import Counts, Report
from verify.engine.result import (
    BLOCKED,
    FAILURES,
    INHERITED,
    MISSING,
    NOT_APPLICABLE,
    NOT_PROVIDED,
    OUTCOMES,
    PASSED,
    SKIPPED,
    XFAILED,
    Result,
)

#: How many checks are named where one line stands for several of them.
_NAMED = 3


def summary(report: Report, counts: Counts, everything: bool = False) -> list[str]:
    """The report as lines of text; ``everything``: a line each check, and each finding whole."""
    judged = [result for result in report.results if counts.judged(result)]
    bad = [result for result in judged if counts.bad(result) or result.outcome == MISSING]
    lines = _table(report.results) if everything else _groups(report.results)
    shown = [result for result in report.results if result.finding and (everything or result in bad)]
    blocks = {cause.check: f"{len(cause.blocks)}: {_names(cause.blocks, everything)}" for cause in report.causes}
    for cause in report.causes:
        if not any(result.check == cause.check for result in shown):
            lines += ["", f"cause: {cause.check}: {cause.message}", f"  blocks    {blocks[cause.check]}"]
    lines += _findings(shown, blocks)
    listed = [result for result in shown if result not in bad and result.outcome in (INHERITED, XFAILED)]
    told = [result for result in report.results if result not in shown or result in listed]
    remarks = _remarks(told, counts, everything)
    lines += ["", *remarks] if remarks else []
    if any(_open_hazard(result) and result not in bad for result in report.results):
        lines.append("hazards are defects that today's callers avoid: they count with --hazards fail")
    lines += ["", *report.notes, *report.statements] if report.notes or report.statements else []
    return [*lines, "", f"verdict: {report.title} {report.verdict}: {report.because}"]


def _label(result: Result) -> str:
    """A check by its name, with the subject where there are several."""
    return f"{result.check} [{result.subject}]" if result.subject else result.check


def _labels(results: Iterable[Result]) -> list[str]:
    """The checks that results are of, each with its subjects."""
    subjects: dict[str, list[str]] = {}
    for result in results:
        subjects.setdefault(result.check, []).append(result.subject)
    return [f"{check} [{', '.join(found)}]" if any(found) else check for check, found in subjects.items()]


def _open_hazard(result: Result) -> bool:
    return result.kind == HAZARD and result.outcome in FAILURES


def _names(names: Sequence[str], everything: bool) -> str:
    if everything or len(names) <= _NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def _table(results: Iterable[Result]) -> list[str]:
    """A line each check."""
    rows = [("check", "outcome", "cases", "seconds")]
    for result in results:
        hazard = " (hazard)" if result.kind == HAZARD else ""
        rows.append((_label(result), result.outcome + hazard, str(result.cases), f"{result.seconds:.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {outcome:<{widths[1]}}  {cases:>{widths[2]}}  {seconds:>{widths[3]}}"
        for name, outcome, cases, seconds in rows
    ]


def _in_words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _counted(results: Sequence[Result]) -> str:
    numbers = [(outcome, sum(result.outcome == outcome for result in results)) for outcome in (PASSED, *OUTCOMES)]
    return ", ".join(f"{number} {_in_words(outcome)}" for outcome, number in dict(numbers).items() if number)


def _groups(results: Sequence[Result]) -> list[str]:
    """A line each group: how many of its checks ended how, and what the target lacks."""
    by_group: dict[str, list[Result]] = {}
    for result in results:
        by_group.setdefault(result.group, []).append(result)
    width = max(map(len, by_group), default=0)
    lines = []
    for group, members in by_group.items():
        requirements = [result for result in members if result.kind != HAZARD]
        hazards = [result for result in members if result.kind == HAZARD]
        parts = [_counted(requirements)] if requirements else []
        parts += [f"hazards: {_counted(hazards)}"] if hazards else []
        parts.append(f"{sum(result.seconds for result in members):.1f} s")
        lacking = dict.fromkeys(result.reason for result in members if result.outcome == NOT_PROVIDED)
        if all(result.outcome == NOT_PROVIDED for result in members):
            parts = [f"{len(members)} not provided"]
        lines.append(f"{group:<{width}}  {'; '.join(parts)}{': ' if lacking else ''}{'; '.join(lacking)}")
    return lines


def _alike(results: Iterable[Result], key: Callable[[Result], tuple[str, ...]]) -> list[list[Result]]:
    """Results in groups with one key, in their order."""
    alike: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        alike.setdefault(key(result), []).append(result)
    return list(alike.values())


def _findings(results: Sequence[Result], blocks: Mapping[str, str]) -> list[str]:
    """Each finding once, with the checks that it was made by as well; first causes, with what they block."""
    ordered = sorted(results, key=lambda result: result.check not in blocks)
    lines = []
    for same in _alike(ordered, lambda result: (result.outcome, result.finding.message if result.finding else "")):
        first = same[0]
        assert first.finding is not None  # only such are given
        text = first.finding.render()
        if first.reason:
            text = f"{first.reason}\n{text}"
        if first.check in blocks:
            text = f"cause: {text}\n  blocks    {blocks[first.check]}"
        lines += ["", *text.splitlines()]
        if len(same) > 1:
            lines.append(f"  the same  {', '.join(_labels(same[1:]))}")
    return lines


def _remarks(results: Sequence[Result], counts: Counts, everything: bool) -> list[str]:
    """What else is to be said of checks, a line for each thing, first what is required and could not be made.

    What a target lacks beside that is said of its groups.
    """
    unsaid = (PASSED, BLOCKED, NOT_APPLICABLE, *(() if everything else (NOT_PROVIDED,)))
    lacking = [result for result in results if counts.lacks(result)]
    others = [result for result in results if not counts.lacks(result) and result.outcome not in unsaid]
    telling = [*lacking, *(result for result in others if _said(result))]
    lines = []
    for same in _alike(telling, lambda result: (_outcome(result, counts), _said(result))):
        names = _names(_labels(same), everything or same[0].outcome not in (SKIPPED, NOT_PROVIDED))
        lines.append(f"{_outcome(same[0], counts)}: {names}: {_said(same[0])}")
    return lines


def _outcome(result: Result, counts: Counts) -> str:
    required = "required, and " if counts.lacks(result) else ""
    return f"{required}{_in_words(result.outcome)}{' (hazard)' if result.kind == HAZARD else ''}"


def _said(result: Result) -> str:
    """In a line, why a check ended as it did."""
    if result.reason:
        return result.reason.removeprefix("inherited ") if result.outcome == INHERITED else result.reason
    return result.finding.message if result.finding else ""
