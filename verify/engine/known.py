"""Known failures: a target's defects that its owners have written down, each with its reason.

A file of entries in TOML::

    [release]                      # optional: the upstream release that the file is about
    name = "sam3 0.1.4"

    [code.NAME]                    # optional: fingerprints of upstream's methods, by name
    forward_video_grounding_multigpu = "…"

    [[known]]
    check = "test_features_on_request"
    reason = "what is wrong, and since when"
    link = "where it is discussed"            # optional
    match = "regular expression"              # optional: the failure's message must hold it
    condition = { world_size = [1, 2] }       # optional: fields of the case, and ``launcher``
    code = "NAME"                             # optional: the methods whose defect this is
    methods = ["…"]                           # optional: which of them; all of NAME's without
    subject = "batched"                       # optional: of several classes and buffers this one
    avoidable = true                          # optional: whoever uses the methods may work around the defect

A target whose methods are upstream's has not made their defects: a failure that an entry with ``code`` explains is
then *inherited*. Entries are strict. The check must fail on the cases that meet the condition (``xfailed``), and must
pass on all others; one that passes where it is said to fail is reported as ``xpassed``, a failure, unless its defect is
avoidable.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from verify.engine.check import Case, Check

_ENTRY = {"check", "reason", "link", "match", "condition", "code", "methods", "subject", "avoidable"}

_ENTRY_HEAD = re.compile(r"\s*\[\[\s*known\s*\]\]")


class KnownError(Exception):
    """A file of known failures cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Known:
    """One known failure."""

    check: str
    reason: str
    link: str = ""
    match: str = ""
    condition: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Fingerprints of the methods whose defect this is, by their names; empty where the entry is the target's own.
    methods: Mapping[str, str] = field(default_factory=dict)
    #: Of several classes and buffers the one that it is about, as ``--subject`` names it; "" for any.
    subject: str = ""
    #: The upstream release that an inherited failure comes from; "" for one of the target's own.
    release: str = ""
    #: Whether a target may use the methods and not have the defect.
    avoidable: bool = False

    def covers(self, case: Case, launcher: str) -> bool:
        """Whether a case on a launcher meets the entry's condition."""
        return all(
            (launcher if name == "launcher" else getattr(case, name)) in allowed
            for name, allowed in self.condition.items()
        )

    def words(self) -> str:
        """The reason, with where it comes from and where it is discussed."""
        origin = f"inherited from {self.release}: " if self.release else ""
        return origin + self.reason + (f" ({self.link})" if self.link else "")

    def explains(self, message: str) -> bool:
        """Whether a failure with this message is the one that the entry speaks of."""
        return re.search(self.match, message) is not None


@dataclass(frozen=True)
class KnownFile:
    path: Path
    entries: tuple[Known, ...]
    #: The upstream release that the file is about.
    release: str = ""


def condition_names(check: Check) -> frozenset[str]:
    """What a condition on a check may speak of: the fields of its cases, and the launcher."""
    case_type = get_type_hints(check.from_json)["return"]
    return frozenset(field.name for field in fields(case_type)) | {"launcher"}


def _entry(
    at: str, data: Any, checks: Mapping[str, Check], code: Mapping[str, Mapping[str, str]], release: str
) -> Known:
    if not isinstance(data, dict):
        raise KnownError(f"{at}: not a table")
    if unknown := sorted(set(data) - _ENTRY):
        raise KnownError(f"{at}: unknown key {unknown[0]!r}; an entry has {', '.join(sorted(_ENTRY))}")
    if not isinstance(data.get("check"), str) or not data["check"].strip():
        raise KnownError(f"{at}: needs a check")
    if not isinstance(data.get("reason"), str) or not data["reason"].strip():
        raise KnownError(f"{at}: needs a reason: say why {data['check']} fails, and for how long it may")
    for key in ("link", "match", "subject"):
        if not isinstance(data.get(key, ""), str):
            raise KnownError(f"{at}: {key} is not a string")
    if not isinstance(data.get("avoidable", False), bool):
        raise KnownError(f"{at}: avoidable is neither true nor false")
    if data["check"] not in checks:
        raise KnownError(f"{at}: there is no check {data['check']!r}; --list-checks names them")
    try:
        re.compile(data.get("match", ""))
    except re.error as error:
        raise KnownError(f"{at}: match is not a regular expression: {error}") from None
    condition = data.get("condition", {})
    if not isinstance(condition, dict):
        raise KnownError(f"{at}: condition is not a table")
    if "carrier" in condition:
        warnings.warn(f"{at}: a condition's carrier is now called launcher", stacklevel=2)
        condition = {"launcher" if name == "carrier" else name: value for name, value in condition.items()}
    names = condition_names(checks[data["check"]])
    if unknown := sorted(set(condition) - names):
        raise KnownError(f"{at}: a condition cannot speak of {unknown[0]!r}, only of {', '.join(sorted(names))}")
    allowed = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in condition.items()}
    methods = _methods(data, code, at)
    link, match, subject = (data.get(key, "") for key in ("link", "match", "subject"))
    avoidable = data.get("avoidable", False)
    return Known(data["check"], data["reason"], link, match, allowed, methods, subject, release, avoidable)


def _methods(data: Mapping[str, Any], code: Mapping[str, Mapping[str, str]], at: str) -> dict[str, str]:
    """The fingerprints of the methods that an entry speaks of, by name."""
    if "code" not in data:
        if "methods" in data:
            raise KnownError(f"{at}: methods without code: name the table of fingerprints that they are in")
        return {}
    table = code.get(data["code"]) if isinstance(data["code"], str) else None
    if table is None:
        raise KnownError(f"{at}: there is no table [code.{data['code']}]")
    names = data.get("methods", list(table))
    if not isinstance(names, list) or any(name not in table for name in names):
        raise KnownError(f"{at}: methods is not a list of names in [code.{data['code']}]")
    return {name: table[name] for name in names}


def _places(text: str, where: str, entries: int) -> list[str]:
    """Each entry in words, with the line that it begins in where it has one of its own."""
    heads = [number for number, line in enumerate(text.splitlines(), 1) if _ENTRY_HEAD.match(line)]
    lines = [f" (line {head})" for head in heads] if len(heads) == entries else [""] * entries
    return [f"{where}, entry {number}{line}" for number, line in enumerate(lines, 1)]


def read(path: Path, checks: Mapping[str, Check]) -> KnownFile:
    """Read a file of known failures; ``checks`` are those that entries may speak of, by name.

    Raises:
        KnownError: in one sentence that names the file, the entry and what to change.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise KnownError(f"--known {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KnownError(f"--known {path}: not TOML: {error}") from None
    where = f"--known {path}"
    if unknown := sorted(set(data) - {"known", "release", "code"}):
        raise KnownError(f"{where}: unknown key {unknown[0]!r}; expected [[known]], [release] and [code.NAME]")
    listed, release, code = data.get("known", []), data.get("release", {}), data.get("code", {})
    if not isinstance(listed, list) or not isinstance(release, dict) or not isinstance(code, dict):
        raise KnownError(f"{where}: expected [[known]] entries, one [release] table and [code.NAME] tables")
    name = str(release.get("name", ""))
    places = _places(text, where, len(listed))
    entries = tuple(_entry(at, item, checks, code, name) for at, item in zip(places, listed, strict=True))
    names = [(entry.check, tuple(entry.condition.items()), tuple(entry.methods), entry.subject) for entry in entries]
    for number, listing in enumerate(names):
        if listing in names[:number]:
            raise KnownError(f"{places[number]}: {listing[0]} is listed twice")
    return KnownFile(path, entries, name)
