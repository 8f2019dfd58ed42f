"""The page that GitHub shows beside a job: a report as Markdown, in which text of the target's is nothing but text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from verify.ci.annotations import ERROR, causes_first, label, level_of, message, where
from verify.ci.workflow_commands import printable
from verify.engine.check import HAZARD
from verify.engine.report import Counts, Report
from verify.engine.result import NOT_APPLICABLE, PASSED, Result

#: GitHub takes no page of more bytes.
MOST = 1024 * 1024
#: Characters of a cell, and of a line to paste.
_CELL, _REPLAY = 600, 6000
_SPECIAL = re.compile(r"[&<>|`\\*_\[\]~#@$!:{}\"']")
_NAME = re.compile(r"[\w.:/, -]+")
_LEFT_OUT = "\n\nMore is left out here, for want of room; the report has it all.\n"


def text(value: object, most: int = _CELL) -> str:
    """A text that Markdown and HTML take for nothing but text, in one line."""
    words = printable(str(value)).replace("\n", " ").replace("\t", " ").strip()
    cut = words if len(words) <= most else words[: most - 1] + "…"
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", cut)


def _name(value: str) -> str:
    """A name in the type of code, where it is one; else as text."""
    return f"`{value}`" if _NAME.fullmatch(value) and value == value.strip() else text(value)


def _block(code: str) -> str:
    """A block of code, which nothing in it ends."""
    shown = printable(code)[:_REPLAY]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}\n{shown}\n{fence}\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _table(report: Report, counts: Counts) -> Iterator[str]:
    rows = [result for result in causes_first(report) if result.outcome not in (PASSED, NOT_APPLICABLE)]
    if not rows:
        return
    yield "\n### What did not pass\n\n"
    yield _row("check", "subject", "outcome", "where", "code", "what") + _row(*["---"] * 6)
    for result in sorted(rows, key=lambda result: level_of(result, report, counts) != ERROR):
        finding = result.finding
        place = f"{finding.place.path}:{finding.place.line}" if finding and finding.place else ""
        hazard = " (hazard)" if result.kind == HAZARD else ""
        yield _row(
            _name(result.check),
            text(result.subject),
            text(result.outcome + hazard),
            text(where(finding)) if finding else "",
            text(place),
            text(message(result)),
        )


def _replays(report: Report, counts: Counts) -> Iterator[str]:
    found: dict[str, Result] = {}
    for result in causes_first(report):
        if result.finding is not None and level_of(result, report, counts) is not None:
            found.setdefault(result.finding.replay, result)
    if found:
        yield "\n### To run a case again\n"
    for replay, result in found.items():
        yield f"\n{text(label(result))}\n\n{_block(replay)}"


def _pieces(report: Report, counts: Counts) -> Iterator[str]:
    sam3 = report.target.get("sam3") or {}
    stands = ", ".join(text(value) for value in (sam3.get("version"), sam3.get("commit")) if value)
    yield f"\n## {text(report.title)}: {text(report.verdict)}\n\n{text(report.because, 2000)}\n"
    if stands:
        yield f"\nsam3: {stands}\n"
    if report.causes:
        yield "\n### Causes\n\n"
    for cause in report.causes:
        names = ", ".join(map(_name, cause.blocks))
        yield f"- {_name(cause.check)}: {text(cause.message, 2000)}. Blocks {len(cause.blocks)}: {names}\n"
    yield from _table(report, counts)
    yield from _replays(report, counts)
    if remarks := [*report.notes, *report.statements]:
        yield "\n### What else holds\n\n"
        yield "".join(f"- {text(remark, 2000)}\n" for remark in remarks)


def job_summary(report: Report, counts: Counts, room: int = MOST) -> str:
    """A report as Markdown, in less than so many bytes: what does not fit is left out at the end."""
    pieces: list[str] = []
    left = room - len(_LEFT_OUT) - 1
    for piece in _pieces(report, counts):
        left -= len(piece.encode())
        if left < 0:
            return "".join([*pieces, _LEFT_OUT]) if room > len(_LEFT_OUT) else ""
        pieces.append(piece)
    return "".join(pieces)
