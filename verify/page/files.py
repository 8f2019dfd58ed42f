"""Files that a page is written to: whether they can be, before anything is run, and writing them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from verify.page.reading import NotAReport, Report, read, report_of

#: What a page is made with, which not every installation has.
_NEEDED = ("jinja2", "matplotlib")


class NoPage(Exception):
    """A page that cannot be made or written; one sentence that says what to do."""


def assert_can_be_written(path: Path, option: str = "--html", beside: Path | None = None) -> None:
    """See that a page can be written to a file; a file that is there keeps what is in it.

    ``beside``: a file that the page must not be written over.

    Raises:
        NoPage: where it cannot.
    """
    named = f"{option} {path}"
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise NoPage(f"{option} needs {' and '.join(missing)}: pip install 'sam3-video-verify[page]'")
    if not path.name or path.is_dir():
        raise NoPage(f"{named} is a folder: name a file")
    if path.exists() and not path.is_file():
        raise NoPage(f"{named} is not a plain file: name another")
    if not path.parent.is_dir():
        raise NoPage(f"{named}: there is no folder {path.parent}")
    if beside is not None and path.resolve() == beside.resolve():
        raise NoPage(f"{named} is the report itself: name another file for the page")
    try:
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink(missing_ok=True)  # ranks of one job may all try
    except OSError as error:
        raise NoPage(f"{named} cannot be written: {error.strerror}") from None


def write_page(report: Report, path: Path, option: str = "--html") -> None:
    """Write a report's page.

    Raises:
        NoPage: where that fails.
    """
    with _rendering(f"{option} {path}") as render:
        text = render.page(report)
    _write(text, path, option)


def write_page_of(data: object, path: Path) -> None:
    """Write the page of a report that is at hand as JSON; raises as ``write_page``."""
    try:
        report = report_of(data)
    except NotAReport as error:
        raise NoPage(f"--html {path}: no page can be made of this report: {error}") from None
    write_page(report, path)


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Write a report's pictures into a folder, a file each; gives the files.

    Raises:
        NoPage: where that fails, or where there are no pictures.
    """
    named = f"--pictures {folder}"
    if not folder.is_dir():
        raise NoPage(f"{named}: there is no such folder; make it first")
    with _rendering(named) as render:
        drawn = render.files_of_pictures(report)
    if not drawn:
        raise NoPage(f"{named}: the report has no pictures; those of this version's checks have")
    for name, text in drawn.items():
        _write(text, folder / name, "--pictures")
    return [folder / name for name in drawn]


@contextmanager
def _rendering(named: str) -> Iterator[ModuleType]:
    """What makes pages, imported late as matplotlib takes a second; whatever fails in it, does so in one sentence."""
    backend = os.environ.pop("MPLBACKEND", None)  # of somebody's windows; one that is unknown ends the import
    try:
        yield importlib.import_module("verify.page.render")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())
        raise NoPage(
            f"{named}: the page could not be made, which is a defect of the gate: {type(error).__name__}: {said} "
            f"({place.filename}, line {place.lineno})"
        ) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _write(text: str, path: Path, option: str) -> None:
    try:
        path.write_bytes(text.encode("utf-8"))
    except OSError as error:
        raise NoPage(f"{option} {path} cannot be written: {error.strerror}") from None


def make(source: Path, page: Path | None, pictures: Path | None) -> list[Path]:
    """Make a page of a report in a file, its pictures, or both; gives what was written.

    Raises:
        NoPage: where that cannot be done.
    """
    if page is None and pictures is None:
        raise NoPage("--from makes a page of a report: name the file to write with --html")
    if page is not None:
        assert_can_be_written(page, beside=source)
    try:
        report = read(source)
    except NotAReport as error:
        raise NoPage(str(error)) from None
    written = []
    if page is not None:
        write_page(report, page)
        written.append(page)
    return written + (write_pictures(report, pictures) if pictures is not None else [])
