"""Reports with what targets may say in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from verify.engine.check import REQUIREMENT
from verify.engine.finding import Finding
from verify.engine.place import Place
from verify.engine.report import VIOLATES, Report
from verify.engine.result import BLOCKED, FAILED, Result

#: What somebody might want GitHub to do, in the words of a target.
HOSTILE = (
    "::error file=a.py::mine",
    "x\n::add-mask::everything\n",
    "\r::set-output name=a::b",
    "  ::warning::indented",
    "##[add-matcher]x.json",
    "a\u2028::notice::separated\x85::notice::next\x0b::debug::tab",
    "<script>alert(1)</script><img src=x onerror=y>",
    "| a | b |\n|---|---|\n",
    "```\n# a heading\n```` more",
    "[a link](javascript:x) ![](http://tracks.me/x.png) @everyone #1 https://example.org *b* _c_ ~d~ $x$",
    "50% of it, 100%25, %0A and %3A",
    "\x1b[31mred\x1b[0m \u202eback\ud800",
)


def finding(message: str = "wrong", check: str = "test_coverage", **more: Any) -> Finding:
    replay = f"python -m pytest verify --target sam3 --only {check} --case '{{}}'"
    return Finding(
        **{"check": check, "target": "sam3", "launcher": "threads", "message": message, "replay": replay, **more}
    )


def failed(check: str = "test_coverage", outcome: str = FAILED, **more: Any) -> Result:
    """A result with a finding, of which ``more`` says what is other than by default."""
    return Result(check, "schedule", REQUIREMENT, outcome, finding=finding(check=check, **more))


def blocked(check: str, by: str) -> Result:
    reason = f"rests on {by}, which fails: wrong"
    return Result(check, "schedule", REQUIREMENT, BLOCKED, reason=reason, blocked_by=by)


def report(*results: Result, **more: Any) -> Report:
    target = {"spec": "sam3", "sam3": {"version": "0.1.4", "commit": None, "folder": "/sam3"}}
    made = Report(target, {}, results, VIOLATES, "1 failed")
    return replace(made, **more)


PLACE = Place("/fork/pkg/a.py", 12, "A.forward")
