"""What a failed check found: enough for an engineer to act on without reading anything else."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from verify.engine.place import Place

#: The environment variable that says how the gate was started, where it was not by pytest.
STARTED_BY = "SAM3_VIDEO_VERIFY_STARTED_BY"
#: How a call of the buffer is named where there is only text to say it.
_CALL = re.compile(r"\bcall (\d+), frame (\d+)")


def call_in_words(number: int, frame: int) -> str:
    return f"call {number}, frame {frame}"


def call_in(text: str) -> tuple[int | None, int | None]:
    """Number and frame of the call that ``text`` names by ``call_in_words``, None where it names none."""
    found = _CALL.search(text)
    return (int(found[1]), int(found[2])) if found else (None, None)


class Violation(AssertionError):
    """A check's property does not hold in a case. Raised by a check's body; the gate makes a ``Finding`` of it."""

    def __init__(
        self,
        message: str,
        *,
        rank: int | None = None,
        call: int | None = None,
        frame: int | None = None,
        tensor: str | None = None,
        expected: object = None,
        got: object = None,
        table: Sequence[Sequence[object]] = (),
        details: str = "",
        place: Place | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.rank = rank
        self.call = call
        self.frame = frame
        self.tensor = tensor
        self.expected = None if expected is None else str(expected)
        self.got = None if got is None else str(got)
        self.table = tuple(tuple(str(cell) for cell in row) for row in table)
        self.details = details
        #: Of the code at fault, where it is known; else the check's own is told.
        self.place = place


class NotCovered(Exception):
    """A check cannot tell whether its property holds for the target; the message says why. It is skipped then."""


@dataclass(frozen=True)
class Finding:
    """A violation with where it was seen and how to see it again. ``None`` where a field does not apply."""

    check: str
    target: str
    launcher: str
    message: str
    replay: str
    world_size: int | None = None
    rank: int | None = None
    call: int | None = None
    frame: int | None = None
    tensor: str | None = None
    expected: str | None = None
    got: str | None = None
    table: tuple[tuple[str, ...], ...] = ()
    case: Mapping[str, Any] = field(default_factory=dict)
    details: str = ""
    #: Where the code lies that it is about.
    place: Place | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> str:
        """Give the finding as text that stands alone."""
        where = [
            f"{name} {value}"
            for name, value in (
                ("world size", self.world_size),
                ("rank", self.rank),
                ("call", self.call),
                ("frame", self.frame),
                ("tensor", self.tensor),
            )
            if value is not None
        ]
        lines = [f"{self.check}: {self.message}", f"  target    {self.target}, on {self.launcher}"]
        if where:
            lines.append(f"  where     {', '.join(where)}")
        if self.place is not None:
            lines.append(f"  code      {self.place}")
        if self.expected is not None:
            lines.append(f"  expected  {self.expected}")
        if self.got is not None:
            lines.append(f"  got       {self.got}")
        if self.table:
            lines.append("")
            lines += ["  " + row for row in _aligned(self.table)]
        if self.details:
            lines += ["", *("  " + line for line in self.details.splitlines())]
        if self.case:
            lines += ["", f"  case      {_case_text(self.case)}"]
        lines.append(f"  replay    {self.replay}")
        return "\n".join(lines)


def finding_of(
    violation: Violation,
    *,
    check: str,
    target: str,
    launcher: str,
    replay: str,
    world_size: int | None = None,
    case: Mapping[str, Any] | None = None,
    place: Place | None = None,
) -> Finding:
    """Make a finding of a violation; what it does not say itself is given, as in ``Finding``.

    ``place`` stands where the violation names none.
    """
    return Finding(
        check=check,
        target=target,
        launcher=launcher,
        message=violation.message,
        replay=replay,
        world_size=world_size,
        rank=violation.rank,
        call=violation.call,
        frame=violation.frame,
        tensor=violation.tensor,
        expected=violation.expected,
        got=violation.got,
        table=violation.table,
        case=case or {},
        details=violation.details,
        place=violation.place or place,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _case_text(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in case.items())


def replay_command(options: str, check: str, launcher: str, case: Mapping[str, Any] | None = None) -> str:
    """One line to paste that runs this check again, on exactly this case where there is one."""
    started = os.environ.get(STARTED_BY, "python -m pytest verify")
    command = f"{started} {options} --only {check} --launcher {launcher}"
    return command if case is None else f"{command} --case {shlex.quote(json.dumps(case, separators=(',', ':')))}"
