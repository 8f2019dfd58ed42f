"""A file of known failures to start from: those of a run, each with its match and a reason to be filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from verify.engine.check import PROCESSES, THREADS
from verify.engine.finding import Finding
from verify.engine.result import FAILED, INHERITED, Result

_HEAD = """\
# Failures of {spec} that are known. An entry is refused until its reason says why the check fails, and for how long
# it may. Entries are strict: one whose check no longer fails, or fails otherwise than its match, fails the gate.
"""
#: So much of a message tells it from others.
_TELLING = 200
#: A number within a message, which another case or another machine may give otherwise.
_NUMBER = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")


def known_failures_file(spec: str, parts: Iterable[Result], bad: Callable[[Result], bool]) -> str:
    """The text of a file of known failures, an entry for each check and subject of the parts that are ``bad``.

    "" where nothing failed that could be listed: a check that gave no result, or had nothing to compare, cannot.
    """
    failures: dict[tuple[str, str], list[Finding]] = {}
    passed: set[tuple[str, str]] = set()
    for part in parts:
        key = (part.check, part.subject)
        if part.outcome in (FAILED, INHERITED) and bad(part) and part.finding is not None:
            failures.setdefault(key, []).append(part.finding)
        elif part.finding is None and part.cases:
            passed.add(key)
    if not failures:
        return ""
    entries = [_entry(*key, findings, key in passed) for key, findings in failures.items()]
    return "\n".join([_HEAD.format(spec=spec), *entries])


def _entry(check: str, subject: str, findings: Iterable[Finding], passes_elsewhere: bool) -> str:
    patterns = dict.fromkeys(_pattern(finding.message) for finding in findings)
    launchers = {finding.launcher for finding in findings}
    fields = {"check": check} | ({"subject": subject} if subject else {})
    fields |= {"reason": "", "match": "|".join(patterns)}
    lines = ["[[known]]", *(f"{name} = {_string(value)}" for name, value in fields.items())]
    if passes_elsewhere and THREADS not in launchers:
        lines.append(f'condition = {{ launcher = ["{PROCESSES}"] }}')
    return "\n".join(lines) + "\n"


def _pattern(message: str) -> str:
    """A regular expression that a message matches, whatever the numbers in it."""
    between = [re.escape(text) for text in _NUMBER.split(message[:_TELLING])]
    return r"[-+.\de]+".join(between)


def _string(text: str) -> str:
    """A string as TOML writes it, which escapes as JSON does, and the one control character that JSON does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
