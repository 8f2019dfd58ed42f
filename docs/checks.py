"""Writes docs/checks.md out of the checks' own docstrings: ``python -m docs.checks``."""

from __future__ import annotations

import inspect
import sys
from itertools import groupby
from pathlib import Path
from types import ModuleType

from verify.engine.check import PROCESSES, Check
from verify.groups import GROUPS, registered

PAGE = Path(__file__).with_suffix(".md")

_HEAD = """\
# The checks

<!-- Written by `python -m docs.checks` out of the checks' docstrings: change those, and run it again. -->

{count} checks, by group. For each: what it says, and why it matters. `python -m pytest verify --explain NAME` prints
the same, `--only NAME` runs one of them or a whole group. [Adding a check](adding-a-check.md) shows how one is made.

A *requirement* is what results or training depend on. A *hazard* is true as well, but today's callers avoid it: it is
shown beside the verdict, and counts with `--hazards fail`. Checks run on ranks that are *threads*, that are
*processes* (started here or by torchrun), or on both: [ranks come in three kinds](architecture.md#ranks).
"""


def _markdown(text: str) -> str:
    """A docstring's text in Markdown: its code in single backticks, its asterisks as they are."""
    parts = text.split("``")
    return "`".join(part if number % 2 else part.replace("*", r"\*") for number, part in enumerate(parts))


def _module(check: Check) -> ModuleType:
    return sys.modules[check.body.__module__]


def _path(module: ModuleType) -> str:
    return f"{module.__name__.replace('.', '/')}.py"


def _place(check: Check) -> tuple[int, str, int]:
    """Where a check stands in the page: by group, file and line, in whatever order modules were imported."""
    return GROUPS.index(check.group), check.body.__module__, inspect.getsourcelines(check.body)[1]


def _where(check: Check) -> str:
    launchers = f"on {' and '.join(check.launchers)}"
    if PROCESSES in check.launchers and not check.every_size:
        return f"{launchers}, at the first world size alone"
    return launchers


def _group(name: str, checks: list[Check]) -> str:
    """A group: its files with what each of them holds, then its checks."""
    lines = [f"## {name}", ""]
    for module, held in groupby(checks, key=_module):
        about = _markdown(" ".join((module.__doc__ or "").split("\n\n")[0].split()))
        names = ", ".join(f"[`{check.name}`](#{check.name})" for check in held)
        lines += [f"- [`{_path(module)}`](../{_path(module)}): {about}", f"  {names}"]
    for check in checks:
        lines += ["", f"### `{check.name}`", "", f"*{check.kind}, {_where(check)}*", "", _markdown(check.doc)]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The text of docs/checks.md."""
    checks = sorted(registered().values(), key=_place)
    groups = [_group(name, list(held)) for name, held in groupby(checks, key=lambda check: check.group)]
    return "\n".join([_HEAD.format(count=len(checks)), *groups])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
