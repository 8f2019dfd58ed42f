"""The page at the end of a run: whatever the run comes to, beside other plugins, and refused before anything is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jsonschema
import pytest

from tests.commands import ROOT, Done, Run, run, torchrun
from tests.engine.gate import GATE, QUICK, assert_short_error

pytestmark = pytest.mark.xdist_group("commands")
WRONG = ("--target", "fixtures.forks.buffer:ReversedGather", *QUICK)
Gate = Callable[..., Done]


@pytest.fixture
def gate(run_forked: Run) -> Gate:
    return partial(run_forked, *GATE)


def _is_page_of_a_wrong_buffer(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<!doctype html>" in html
    assert "pytest-html" not in html
    assert html.count("first-difference") == 1
    assert "Run this case again" in html


def test_a_run_that_fails_leaves_its_page_and_a_report_with_pictures(gate: Gate, tmp_path: Path) -> None:
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    done = gate(*WRONG, "--html", str(page), "--report", str(report))  # pytest-html is installed here
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    _is_page_of_a_wrong_buffer(page)
    written = json.loads(report.read_text())
    jsonschema.validate(written, json.loads((ROOT / "docs" / "report.schema.json").read_text()))
    (check,) = written["checks"]
    assert [picture["kind"] for picture in check["pictures"]] == ["schedule"]
    again = tmp_path / "again.html"
    assert run("verify", "--html", str(again), "--from", str(report)).status == 0
    assert again.read_bytes() == page.read_bytes()


def test_a_page_without_the_other_plugin_and_under_workers(gate: Gate, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = gate(*WRONG, "--html", str(page), "-p", "no:html", "-n", "1")
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    _is_page_of_a_wrong_buffer(page)


def test_the_other_plugin_may_be_loaded_by_name(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("verify", *WRONG, "--html", str(page), "-p", "pytest_html.plugin")
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    _is_page_of_a_wrong_buffer(page)


def test_a_target_that_ends_the_process_leaves_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("verify", "--target", "fixtures.forks.endings:Exits", *QUICK, "--html", str(page))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    html = page.read_text(encoding="utf-8")
    assert "the process that judges ended itself" in html
    assert "violates" in html


def test_of_the_ranks_of_a_job_one_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = torchrun(2, "-m", *GATE, *WRONG, "--html", str(page))
    assert done.status != 0
    _is_page_of_a_wrong_buffer(page)
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--html", "/no/such/folder/page.html"), "--html /no/such/folder/page.html: there is no folder"),
        (("--html", "/tmp"), "--html /tmp is a folder: name a file"),
        (("--html", "/proc/page.html"), "--html /proc/page.html cannot be written"),
        (("--html", "same.json", "--report", "same.json"), "is the report itself"),
        (("--pictures", "/tmp"), "name it with --from"),
    ],
)
def test_a_bad_path_is_refused_before_anything_is_run(options: tuple[str, ...], says: str, gate: Gate) -> None:
    assert_short_error(gate("--target", "sam3", *QUICK, *options), says)
