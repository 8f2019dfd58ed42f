"""Making a page of a report by the command: it runs nothing, and refuses in one sentence what cannot be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, run
from tests.page.reports import KINDS, check, picture, report
from verify.page.command import asks_for_a_page, make_page

USAGE_ERROR = 4


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report()))
    return path


def test_a_page_is_made_of_a_report_without_what_judges(written: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    names = ("torch", "sam3", "pytest", "hypothesis", "verify.plugin", "matplotlib.pyplot")
    code = (
        "import sys; from verify.__main__ import main\n"
        f"sys.argv = ['sam3-video-verify', '--html', {str(page)!r}, '--from', {str(written)!r}]\n"
        f"try: main()\nexcept SystemExit as end: print(end.code, [name for name in {names!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [str(page), "0 []"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page.read_text(encoding="utf-8").count("<svg") == 2 * len(KINDS)


def test_pictures_are_written_as_files_of_their_own(written: Path, tmp_path: Path) -> None:
    assert make_page(["--pictures", str(tmp_path), "--from", str(written)]) == 0
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert {"bad-schedule-schedule.svg", "good-lines.svg"} <= names
    assert len(names) == 2 * len(KINDS)
    assert "prefers-color-scheme" in (tmp_path / "good-lines.svg").read_text()


def test_several_pictures_of_a_kind_have_files_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(report(checks=[check("test_a/b", "passed", pictures=[picture("lines")] * 3)])))
    assert make_page(["--pictures", str(tmp_path), "--from", str(source)]) == 0
    assert {path.name for path in tmp_path.glob("*.svg")} == {"a-b-lines.svg", "a-b-lines-2.svg", "a-b-lines-3.svg"}


def _refused(capsys: pytest.CaptureFixture[str], says: str, *arguments: str) -> None:
    assert make_page(list(arguments)) == USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ERROR: ")
    assert err.count("\n") == 1, err
    assert says in err


def test_reports_that_are_none_are_refused(tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = str(tmp_path / "page.html")
    bad = tmp_path / "bad.json"
    for content, says in (
        (b"", "is not JSON, or was cut off, at line 1"),
        (written.read_bytes()[:-100], "is not JSON, or was cut off, at line 1"),
        (b"<html>", "is not JSON, or was cut off"),
        (b"[" * 200_000, "is not JSON, or was cut off"),
        (b"\xff\xfe\x00", "is not text"),
        (b"[]", "is no report of a verification: it is not an object"),
        (b'{"version": 3}', "is no report of a verification: target is missing"),
    ):
        bad.write_bytes(content)
        _refused(capsys, f"--from {bad} {says}", "--html", page, "--from", str(bad))
    _refused(capsys, "there is no such file", "--html", page, "--from", str(tmp_path / "none.json"))
    _refused(capsys, "is a folder", "--html", page, "--from", str(tmp_path))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    _refused(capsys, "is not a plain file", "--html", page, "--from", str(fifo))
    assert not Path(page).exists()


def test_files_that_no_page_can_be_written_to_are_refused(
    tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ("--from", str(written))
    _refused(capsys, "is a folder: name a file", "--html", str(tmp_path), *source)
    _refused(capsys, "there is no folder", "--html", str(tmp_path / "none" / "page.html"), *source)
    _refused(capsys, "cannot be written", "--html", "/proc/page.html", *source)
    _refused(capsys, "is the report itself", "--html", str(written), *source)
    _refused(capsys, "names nothing", "--html=", *source)
    _refused(capsys, "names nothing", "--from", "--html", str(tmp_path / "page.html"))
    _refused(capsys, "there is no such folder", "--pictures", str(tmp_path / "none"), *source)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    _refused(capsys, "is not a plain file", "--html", str(fifo), *source)
    assert json.loads(written.read_text())["verdict"] == "violates", "the report is as it was"


def test_a_page_and_a_run_do_not_go_together(tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--html", str(tmp_path / "page.html"), "--from", str(written))
    for option in ("--target", "--only=schedule", "-n", "verify"):
        _refused(capsys, f"runs nothing: leave out {option}", *both, option)
    _refused(capsys, "name the file to write with --html", "--from", str(written))
    _refused(capsys, "give it once", *both, "--from", str(written))


def test_pictures_of_a_report_that_has_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(report(checks=[check("test_a", "passed")])))
    _refused(capsys, "the report has no pictures", "--pictures", str(tmp_path), "--from", str(old))
    assert make_page(["--html", str(tmp_path / "page.html"), "--from", str(old)]) == 0, "a page it has all the same"


def test_what_a_page_is_made_with_is_named_where_it_is_missing(
    tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.page.files._NEEDED", ("jinja2", "no_such_package"))
    page = str(tmp_path / "page.html")
    _refused(capsys, "pip install 'sam3-video-verify[page]'", "--html", page, "--from", str(written))


def test_settings_of_matplotlib_are_no_concern_of_a_page(written: Path, tmp_path: Path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "other.html"
    (tmp_path / "matplotlibrc").write_text("font.size: 40\nsvg.fonttype: path\n")
    settings = {"MPLBACKEND": "no such backend", "MATPLOTLIBRC": str(tmp_path), "MPLCONFIGDIR": str(tmp_path / "cache")}
    for path, variables in ((page, settings), (other, {})):
        done = run("verify", "--html", str(path), "--from", str(written), **variables)
        assert (done.status, done.err) == (0, "")
    assert page.read_bytes() == other.read_bytes()


def test_other_ranks_than_0_write_nothing(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert make_page(["--html", str(tmp_path / "page.html"), "--from", str(written)]) == 0
    assert not (tmp_path / "page.html").exists()


def test_only_an_option_of_that_name_asks_for_a_page() -> None:
    assert asks_for_a_page(["--from=a"])
    assert not asks_for_a_page(["--target", "from", "--html", "a"])


@pytest.mark.xdist_group("commands")
def test_pytest_makes_it_as_well(written: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("pytest", "verify", "--html", str(page), "--from", str(written))
    assert done.status == 0, done.out + done.err
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    refused = run("pytest", "verify", "--html", str(page), "--from", str(written), "--only", "schedule")
    assert (refused.status, refused.err.count("ERROR")) == (USAGE_ERROR, 1)
    assert "leave out --only" in refused.err
