"""What GitHub's runner makes of what a step prints: a reader of workflow commands, after its documentation and code.

A line is a command where it begins, after blanks, with ``::name``; or has ``##[name]`` anywhere, in the older way.
Between ``::stop-commands::TOKEN`` and ``::TOKEN::`` nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_COMMAND = re.compile(r"^\s*::(?P<name>[\w-]+)(?: (?P<properties>.*?))?::(?P<data>.*)$", re.DOTALL)
_OLDER = re.compile(r"##\[(?P<name>[\w-]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)$", re.DOTALL)
#: What .NET takes for the end of a line.
_ENDS = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Command:
    name: str
    message: str
    properties: Mapping[str, str]


def _unescaped(text: str, *more: tuple[str, str]) -> str:
    for escaped, plain in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
        text = text.replace(escaped, plain)
    return text


def read_command(line: str) -> Command | None:
    """The command that a line is, None where it is text."""
    found = _COMMAND.match(line) or _OLDER.search(line)
    if found is None:
        return None
    properties = {}
    for pair in (found["properties"] or "").split(","):
        key, equals, value = pair.strip().partition("=")
        if equals:
            properties[key] = _unescaped(value, ("%3A", ":"), ("%2C", ","))
    return Command(found["name"], _unescaped(found["data"]), properties)


def commands_in(printed: str) -> list[Command]:
    """The commands that the runner carries out of what a step has printed."""
    stopped, found = "", []
    for line in _ENDS.split(printed):
        if stopped:
            stopped = "" if line.strip() == f"::{stopped}::" else stopped
        elif (command := read_command(line)) is not None:
            if command.name == "stop-commands":
                stopped = command.message
            else:
                found.append(command)
    return found
