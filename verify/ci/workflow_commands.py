"""Lines that GitHub's runner reads out of what a step prints, as commands."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

#: What stands for itself in no command, and what is written in its place. The percent sign is first.
_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_DATA, (":", "%3A"), (",", "%2C"))


def printable(text: str) -> str:
    """A text in which characters are spelt out that have no shape of their own, but for tabs and the ends of lines.

    What a target says could steer a terminal, turn the direction of writing, or end a line otherwise than by ``\\n``.
    """
    lines = text.replace("\r\n", "\n")
    return "".join(_spelt(character) for character in lines)


def _spelt(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for one, other in pairs:
        text = text.replace(one, other)
    return text


def command(name: str, message: str, properties: Mapping[str, object]) -> str:
    """A command as one line: ``::name key=value,key=value::message``, properties without a value left out."""
    given = ",".join(
        f"{key}={_replaced(printable(str(value)), _PROPERTY)}"
        for key, value in properties.items()
        if value not in (None, "")
    )
    return f"::{name}{' ' if given else ''}{given}::{_replaced(printable(message), _DATA)}"


@contextmanager
def taken_for_text(write: Callable[[str], object]) -> Iterator[None]:
    """Have the runner take nothing for a command that is printed meanwhile, by whomever.

    Until a line that nobody can guess says otherwise: what a target prints, or what is quoted of it, may look like one.
    """
    token = secrets.token_hex(20)
    write(f"::stop-commands::{token}\n")
    try:
        yield
    finally:
        write(f"\n::{token}::\n")  # a target may have left a line without its end
