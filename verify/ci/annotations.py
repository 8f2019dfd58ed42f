"""Marks on lines of the target's code: what GitHub shows beside a change, made of a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from verify.ci.workflow_commands import command
from verify.engine.check import HAZARD
from verify.engine.finding import Finding
from verify.engine.place import Place
from verify.engine.report import Counts, Report
from verify.engine.result import BLOCKED, FAILED, INHERITED, MISSING, Result

ERROR, WARNING, NOTICE = "error", "warning", "notice"
#: How many of each level GitHub shows of a step.
SHOWN = 10
#: Characters of a title, and of a message.
_TITLE, _MESSAGE = 200, 4000


@dataclass(frozen=True)
class Annotation:
    """A mark, perhaps on a line."""

    level: str
    title: str
    message: str
    place: Place | None = None

    def line(self, workspace: Path | None) -> str:
        """The workflow command that makes it; with a position where the file lies in the workspace."""
        within = path_within(self.place, workspace)
        position = {"file": within, "line": self.place.line} if self.place is not None and within is not None else {}
        return command(self.level, _cut(self.message, _MESSAGE), {**position, "title": _cut(self.title, _TITLE)})


def path_within(place: Place | None, workspace: Path | None) -> str | None:
    """A place's file as the workspace names it, with slashes; None where it lies elsewhere.

    Links may lead into the workspace, and the workspace may be named by one.
    """
    if place is None or workspace is None:
        return None
    for form in (os.path.abspath, os.path.realpath):
        with suppress(OSError, ValueError):
            path, root = Path(form(place.path)), Path(form(workspace))
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
    return None


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def level_of(result: Result, report: Report, counts: Counts) -> str | None:
    """How a result is marked: an error where it makes the gate fail, None where it is not marked."""
    if result.outcome == BLOCKED:
        made = any(other.check == result.blocked_by for other in report.results)
        return ERROR if counts.judged(result) and not made else None  # else its cause is
    if counts.bad(result) or counts.lacks(result) or result.outcome == MISSING:
        return ERROR
    if result.kind == HAZARD and result.outcome in (FAILED, INHERITED):
        return WARNING
    return NOTICE if result.outcome == INHERITED else None


def where(finding: Finding) -> str:
    """Rank, call, frame and tensor in words, as far as they are known."""
    named = (
        ("world size", finding.world_size),
        ("rank", finding.rank),
        ("call", finding.call),
        ("frame", finding.frame),
        ("tensor", finding.tensor),
    )
    return ", ".join(f"{name} {value}" for name, value in named if value is not None)


def label(result: Result) -> str:
    return f"{result.check} [{result.subject}]" if result.subject else result.check


def message(result: Result) -> str:
    """What is wrong, in one sentence."""
    return result.finding.message if result.finding else result.reason or result.outcome


def causes_first(report: Report) -> list[Result]:
    """A report's results, those first that block others, the one first that blocks most."""
    blocks = {cause.check: len(cause.blocks) for cause in report.causes}
    return sorted(report.results, key=lambda result: -blocks.get(result.check, 0))


def annotations_of(report: Report, counts: Counts) -> list[Annotation]:
    """The marks of a report, causes first: one for all findings that say the same of the same place."""
    together: dict[tuple[str, str, Place | None], list[Result]] = {}
    for result in causes_first(report):
        if (level := level_of(result, report, counts)) is not None:
            place = result.finding.place if result.finding else None
            together.setdefault((level, message(result), place), []).append(result)
    blocks = {cause.check: cause.blocks for cause in report.causes}
    made = [
        Annotation(level, _title(results), _text(results[0], blocks.get(results[0].check, ())), place)
        for (level, _, place), results in together.items()
    ]
    return [each for level in (ERROR, WARNING, NOTICE) for each in _shown([a for a in made if a.level == level])]


def _title(results: Sequence[Result]) -> str:
    more = f" and {len(results) - 1} more" if len(results) > 1 else ""
    return label(results[0]) + more


def _text(result: Result, blocks: Sequence[str]) -> str:
    lines = [message(result)]
    finding = result.finding
    if finding is not None:
        lines += [
            f"{name}: {value}"
            for name, value in (("where", where(finding)), ("expected", finding.expected), ("got", finding.got))
            if value
        ]
    if result.finding is not None and result.reason:
        lines.append(result.reason)
    if blocks:
        lines.append(f"blocks {len(blocks)}: {', '.join(blocks)}")
    if finding is not None:
        lines.append(f"replay: {finding.replay}")
    return "\n".join(lines)


def _shown(made: Sequence[Annotation]) -> list[Annotation]:
    """As many as GitHub shows; where there are more, the last says so."""
    if len(made) <= SHOWN:
        return list(made)
    left = made[SHOWN - 1 :]
    names = ", ".join(each.title for each in left)
    rest = Annotation(left[0].level, f"{len(left)} more", f"the summary of the job has them all: {names}")
    return [*made[: SHOWN - 1], rest]
