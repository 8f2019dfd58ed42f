"""Brings marks and the job's page to GitHub, once the run that they are made of has ended.

What a target prints, and what is quoted of it, may look like commands to GitHub's runner. So none are taken while the
gate runs; what is to be shown is left in a folder meanwhile, by whichever process comes to the report.

Imports nothing that takes time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from verify.ci.workflow_commands import command, taken_for_text

if TYPE_CHECKING:
    from verify.engine.report import Counts, Report

#: The environment variable that names the folder; processes that judge inherit it.
FOLDER = "SAM3_VIDEO_VERIFY_FOR_GITHUB"
_TITLE = "sam3-video-verify"
_MARKS, _PAGE = "marks", "page.md"
_LEVELS = ("::error", "::warning", "::notice")


def _write_out(line: str) -> None:
    print(line, end="", flush=True)


@contextmanager
def shown_on_github(write: Callable[[str], object] = _write_out) -> Iterator[None]:
    """Show on GitHub what is published meanwhile; does nothing elsewhere, nor within another of these.

    ``write`` prints on the standard output.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true" or FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="sam3-video-verify-") as folder:
        os.environ[FOLDER] = folder
        try:
            with taken_for_text(write):
                yield
        finally:
            del os.environ[FOLDER]
            _show(Path(folder), write)


def publish(report: Report, counts: Counts) -> None:
    """Leave marks and the page of a report where they are shown from; of several reports, the last is shown."""
    if FOLDER not in os.environ:
        return
    from verify.ci.annotations import annotations_of  # imports torch
    from verify.ci.job_summary import MOST, job_summary

    folder, workspace = Path(os.environ[FOLDER]), os.environ.get("GITHUB_WORKSPACE")
    root = Path(workspace).absolute() if workspace else None
    lines = [annotation.line(root) + "\n" for annotation in annotations_of(report, counts)]
    (folder / _MARKS).write_text("".join(lines), encoding="utf-8")
    (folder / _PAGE).write_text(job_summary(report, counts, MOST - _written_before()), encoding="utf-8")


def publish_status(status: int) -> None:
    """Leave a mark for a run that has ended without a report, as one that could not begin."""
    folder = os.environ.get(FOLDER)
    if folder is None or status == 0 or (Path(folder) / _MARKS).exists():
        return
    text = f"there is no verdict: the gate ended with status {status}; the log of the step says why"
    (Path(folder) / _MARKS).write_text(command("error", text, {"title": _TITLE}) + "\n", encoding="utf-8")


def _written_before() -> int:
    """Bytes of the page that the step has written already."""
    try:
        return Path(os.environ.get("GITHUB_STEP_SUMMARY", "")).stat().st_size
    except OSError:
        return 0


def _show(folder: Path, write: Callable[[str], object]) -> None:
    page, file = folder / _PAGE, os.environ.get("GITHUB_STEP_SUMMARY")
    if file and page.exists():
        try:
            with Path(file).open("a", encoding="utf-8") as summary:
                summary.write(page.read_text(encoding="utf-8"))
        except OSError as error:
            text = f"the summary of the job could not be written to {file}: {error.strerror}"
            write(command("warning", text, {"title": _TITLE}) + "\n")
    if (folder / _MARKS).exists():
        lines = (folder / _MARKS).read_text(encoding="utf-8").split("\n")
        write("".join(f"{line}\n" for line in lines if line.startswith(_LEVELS)))
