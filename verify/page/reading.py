"""A report as it is read from its JSON: what a page says. Whatever is unknown in it is passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

#: No report is as large, in bytes.
LARGEST = 64 * 2**20
#: The most that a picture's data may take as JSON, in characters.
LARGEST_PICTURE = 80_000
#: What neither a page nor a picture can hold: control characters, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
Read = TypeVar("Read")


class NotAReport(Exception):
    """A file or its content that no page can be made of; one sentence that says what to do."""


@dataclass(frozen=True)
class Picture:
    kind: str
    title: str
    description: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What was found, with where and how to see it again; "" or empty where a field does not apply."""

    message: str
    launcher: str
    replay: str
    where: tuple[tuple[str, str], ...]
    #: Where the code lies that it is about.
    code: str
    expected: str
    got: str
    table: tuple[tuple[str, ...], ...]
    case: str
    details: str


@dataclass(frozen=True)
class Check:
    name: str
    group: str
    kind: str
    subject: str
    outcome: str
    cases: int
    seconds: float
    reason: str
    blocked_by: str
    finding: Finding | None
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Cause:
    check: str
    message: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    target: str
    #: Names and values: what was judged.
    judged: tuple[tuple[str, str], ...]
    verdict: str
    because: str
    causes: tuple[Cause, ...]
    notes: tuple[str, ...]
    statements: tuple[str, ...]
    checks: tuple[Check, ...]
    #: Names and values: what it was judged with.
    environment: tuple[tuple[str, str], ...]


def read(path: Path) -> Report:
    """Read the report in a file.

    Raises:
        NotAReport: where there is none, saying why.
    """
    named = f"--from {path}"
    if path.is_dir():
        raise NotAReport(f"{named} is a folder: name the report in it")
    if not path.exists():
        raise NotAReport(f"{named}: there is no such file; --report FILE writes one when a target is judged")
    if not path.is_file():
        raise NotAReport(f"{named} is not a plain file: name the one that --report wrote")
    try:
        if path.stat().st_size > LARGEST:
            raise NotAReport(f"{named} is larger than any report: name the one that --report wrote")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotAReport(f"{named} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotAReport(f"{named} is not text: name the report that --report wrote") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f", at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise NotAReport(f"{named} is not JSON, or was cut off{at}: write it again with --report") from None
    try:
        return report_of(data)
    except NotAReport as error:
        raise NotAReport(f"{named} is no report of a verification: {error}; write one with --report") from None


def report_of(data: Any) -> Report:
    """Read a report out of its JSON.

    Raises:
        NotAReport: saying which field is missing or of another type.
    """
    try:
        return _report(_printable(data))
    except RecursionError:
        raise NotAReport("it is nested too deep") from None


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_printable(item) for item in value]
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NotAReport(f"{where} is not an object")
    return value


def _field(data: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    if name not in data:
        raise NotAReport(f"{where}{name} is missing")
    value = data[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise NotAReport(f"{where}{name} is not what a report has there")
    return value


def _list(data: Mapping[str, Any], name: str, where: str, read: Callable[[Any, str], Read]) -> tuple[Read, ...]:
    found = _field(data, name, list, where)
    return tuple(read(item, f"{where}{name}[{number}]") for number, item in enumerate(found))


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise NotAReport(f"{where} is not text")
    return value


def _words(value: Any) -> str:
    """A value of any kind in words."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _report(data: Any) -> Report:
    data = _mapping(data, "it")
    target = _mapping(_field(data, "target", Mapping, ""), "target")
    environment = _mapping(_field(data, "environment", Mapping, ""), "environment")
    return Report(
        target=_words(target.get("title", _field(target, "spec", str, "target."))),
        judged=tuple(_judged(target)),
        verdict=_field(data, "verdict", str, ""),
        because=_field(data, "because", str, ""),
        causes=_list(data, "causes", "", _cause),
        notes=_list(data, "notes", "", _string),
        statements=_list(data, "statements", "", _string),
        checks=_list(data, "checks", "", _check),
        environment=tuple(_flat(environment)),
    )


def _judged(target: Mapping[str, Any]) -> list[tuple[str, str]]:
    sam3 = _mapping(target.get("sam3") or {}, "target.sam3")
    commit = f", commit {sam3['commit']}" if sam3.get("commit") else ""
    rows = [("target", _words(target["spec"]))]
    if target.get("builder"):
        rows.append(("builder", _words(target["builder"])))
    if target.get("origin"):
        rows.append(("file", _words(target["origin"])))
    if sam3.get("version"):
        rows.append(("sam3", f"{_words(sam3['version'])}{commit}"))
    if sam3.get("folder"):
        rows.append(("sam3's folder", _words(sam3["folder"])))
    if isinstance(target.get("subjects"), list) and target["subjects"]:
        rows.append(("subjects", ", ".join(map(_words, target["subjects"]))))
    return rows


def _flat(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            rows += [(str(key), _words(item)) for key, item in value.items()]
        elif value is not None:
            rows.append((str(name).replace("_", " "), _words(value)))
    return rows


def _cause(value: Any, where: str) -> Cause:
    data, inside = _mapping(value, where), f"{where}."
    return Cause(
        _field(data, "check", str, inside), _field(data, "message", str, inside), _list(data, "blocks", inside, _string)
    )


def _check(value: Any, where: str) -> Check:
    data, inside = _mapping(value, where), f"{where}."
    finding = _field(data, "finding", (Mapping, type(None)), inside)
    pictures = data.get("pictures") or []
    return Check(
        name=_field(data, "name", str, inside),
        group=_field(data, "group", str, inside),
        kind=_field(data, "kind", str, inside),
        subject=_field(data, "subject", str, inside),
        outcome=_field(data, "outcome", str, inside),
        cases=_field(data, "cases", int, inside),
        seconds=float(_field(data, "seconds", (int, float), inside)),
        reason=_field(data, "reason", str, inside),
        blocked_by=_field(data, "blocked_by", str, inside),
        finding=None if finding is None else _finding(finding, f"{inside}finding."),
        pictures=tuple(filter(None, map(_picture, pictures if isinstance(pictures, list) else []))),
    )


def _finding(data: Mapping[str, Any], where: str) -> Finding:
    places = [
        (name.replace("_", " "), str(data[name]))
        for name in ("world_size", "rank", "call", "frame", "tensor")
        if data.get(name) is not None
    ]
    place = data.get("place")
    code = f"{place.get('path')}:{place.get('line')} ({place.get('what')})" if isinstance(place, Mapping) else ""
    table = data.get("table") or []
    rows = tuple(tuple(map(_words, row)) for row in table if isinstance(row, list)) if isinstance(table, list) else ()
    case = _mapping(data.get("case") or {}, f"{where}case")
    return Finding(
        message=_field(data, "message", str, where),
        launcher=_field(data, "launcher", str, where),
        replay=_field(data, "replay", str, where),
        where=tuple(places),
        code=code,
        expected=_words(data["expected"]) if data.get("expected") is not None else "",
        got=_words(data["got"]) if data.get("got") is not None else "",
        table=rows,
        case=", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in case.items()),
        details=_words(data.get("details") or ""),
    )


def _picture(value: Any) -> Picture | None:
    """A picture, None where it is none: a page goes without it."""
    if not isinstance(value, Mapping) or not isinstance(value.get("data"), Mapping):
        return None
    said = [value.get(name) for name in ("kind", "title", "description")]
    if not all(isinstance(words, str) for words in said) or len(json.dumps(value["data"])) > LARGEST_PICTURE:
        return None
    return Picture(str(said[0]), str(said[1]), str(said[2]), value["data"])
