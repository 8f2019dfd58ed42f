"""What a verification is doing, kept where it outlives the process that does it.

A target can end the process that judges it, without a word. What that process was doing is then in its journal: a
folder with the plan, the results so far, and for each process that judges a page with what is under way. The page is a
file in memory, which the operating system keeps however the process ends: a case costs no call of the system.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verify.engine.finding import Finding, Violation, finding_of, replay_command
from verify.engine.place import Place, place_from_json

#: The environment variable that names the folder; workers of xdist inherit it.
VARIABLE = "SAM3_VIDEO_VERIFY_JOURNAL"
_PAGE = 1 << 18
_HEAD = struct.Struct("<QI")  # how often the page was written, and how long it is
_PLAN, _RESULTS, _THREADS, _STATUS = "plan.json", "results.jsonl", "threads.jsonl", "status"
_INTERRUPTED, _UNDER_WAY, _STACK = "interrupted", "under-way-", "stack-"


@dataclass(frozen=True)
class UnderWay:
    """What a process that judges is doing."""

    #: In words, as what follows "while".
    doing: str
    #: The check that is being made, and "" where none is.
    check: str = ""
    group: str = ""
    kind: str = ""
    launcher: str = ""
    #: The target's ``spec`` and its options on the command line.
    target: str = ""
    options: str = ""
    subject: str = ""
    case: Mapping[str, Any] | None = None
    #: The check for which this one is made, where it rests on it, and pytest's name of that.
    made_for: str = ""
    item: str = ""
    #: Where the code lies that the check is about.
    place: Place | None = None

    def finding(self, violation: Violation) -> Finding:
        """A finding of what was wrong meanwhile."""
        size = None if self.case is None else self.case.get("world_size", 1)
        return finding_of(
            violation,
            check=self.check,
            target=self.target,
            launcher=self.launcher,
            replay=replay_command(self.options, self.check, self.launcher, self.case),
            world_size=size,
            case=self.case,
            place=self.place,
        )


def _under_way(data: Mapping[str, Any]) -> UnderWay:
    return UnderWay(**{**data, "place": place_from_json(data.get("place"))})


@dataclass
class Journal:
    """One process's part of a journal; of a journal without a folder only what is under way is kept."""

    folder: Path | None = None
    #: Tells the processes apart that share the folder.
    name: str = "main"
    under_way: UnderWay | None = None
    #: The check that pytest makes, and pytest's name of that.
    item: tuple[str, str] = ("", "")
    _page: mmap.mmap | None = field(default=None, repr=False)
    _written: int = 0

    def __post_init__(self) -> None:
        if self.folder is not None:
            path = self.folder / (_UNDER_WAY + self.name)
            path.write_bytes(bytes(_PAGE))
            with path.open("r+b") as file:
                self._page = mmap.mmap(file.fileno(), _PAGE)

    @property
    def stack(self) -> Path | None:
        """Where the stack is to be written that a fault is met in."""
        return None if self.folder is None else self.folder / (_STACK + self.name)

    def begin(self, under_way: UnderWay | None) -> None:
        """Note what is under way from now on; None where a check is done."""
        self.under_way = under_way
        if self._page is None:
            return
        text = b"" if under_way is None else json.dumps(asdict(under_way)).encode()
        if under_way is not None and len(text) > _PAGE - _HEAD.size:
            text = json.dumps({**asdict(under_way), "case": None}).encode()
        self._written += 1
        self._page[_HEAD.size : _HEAD.size + len(text)] = text
        self._page[: _HEAD.size] = _HEAD.pack(self._written, len(text))

    def plan(self, data: Mapping[str, Any]) -> None:
        """Keep what a report needs that another process writes."""
        if self.folder is not None:
            _replace(self.folder / _PLAN, json.dumps(data))

    def add(self, result: Mapping[str, Any]) -> None:
        """Keep the result of one part of a check."""
        self._append(_RESULTS, result)

    def threads_left(self, names: Sequence[str]) -> None:
        """Keep which threads have begun in what is under way that keep the process from ending."""
        if self.under_way is not None:
            self._append(_THREADS, {"names": list(names), "under_way": asdict(self.under_way)})

    def _append(self, name: str, data: Mapping[str, Any]) -> None:
        if self.folder is not None:
            with (self.folder / name).open("a") as file:
                file.write(json.dumps(data) + "\n")

    def interrupted(self) -> None:
        """Note that an interrupt has been noticed."""
        if self.folder is not None:
            (self.folder / _INTERRUPTED).touch()


def close(status: int) -> None:
    """Note the exit status of the verification that this process has come to the end of."""
    if VARIABLE in os.environ:
        _replace(Path(os.environ[VARIABLE]) / _STATUS, str(status))


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def journal_of_process() -> Journal:
    """The part of this process in the journal that the environment names, if it names one."""
    folder = os.environ.get(VARIABLE)
    name = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return Journal(Path(folder) if folder and Path(folder).is_dir() else None, name)


# What another process reads


@dataclass(frozen=True)
class Page:
    """What one process was doing."""

    name: str
    #: How often the page was written.
    written: int
    under_way: UnderWay | None


def pages(folder: Path) -> Iterator[Page]:
    """What each process that judges is doing, or was at its end."""
    for path in sorted(folder.glob(_UNDER_WAY + "*")):
        data = path.read_bytes()
        if len(data) < _HEAD.size:
            continue  # it is being made
        written, length = _HEAD.unpack_from(data)
        under_way = None
        with contextlib.suppress(ValueError, TypeError):  # ended while it was being written
            under_way = _under_way(json.loads(data[_HEAD.size : _HEAD.size + length])) if length else None
        yield Page(path.name.removeprefix(_UNDER_WAY), written, under_way)


def read_plan(folder: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        plan: dict[str, Any] = json.loads((folder / _PLAN).read_text())
        return plan
    return None


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return _lines(folder / _RESULTS)


def read_threads(folder: Path) -> list[tuple[list[str], UnderWay]]:
    """Threads that keep the process from ending, as long as they run, with what they have begun in."""
    return [(line["names"], _under_way(line["under_way"])) for line in _lines(folder / _THREADS)]


def _lines(path: Path) -> list[dict[str, Any]]:
    """What the lines of a file say; one that was not written to its end says nothing."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def read_status(folder: Path) -> int | None:
    """The exit status of the verification, None where it has not come to its end."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / _STATUS).read_text())
    return None


def was_interrupted(folder: Path) -> bool:
    """Whether the process that judges has noticed an interrupt."""
    return (folder / _INTERRUPTED).exists()


def read_stack(folder: Path, name: str) -> str:
    with contextlib.suppress(OSError):
        return (folder / (_STACK + name)).read_text(errors="replace")
    return ""


@dataclass
class Progress:
    """Tells for how long nothing has changed in a journal."""

    seen: tuple[Any, ...] = ()
    seconds: float = 0.0

    def silence(self, folder: Path, passed: float) -> float:
        """Look again after so many seconds have ``passed``."""
        results = folder / _RESULTS
        now = (*((page.name, page.written) for page in pages(folder)), results.exists() and results.stat().st_size)
        self.seconds = self.seconds + passed if now == self.seen else 0.0
        self.seen = now
        return self.seconds
