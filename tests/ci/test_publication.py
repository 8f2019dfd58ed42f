"""What GitHub is told by the gate as it runs there: in one process, in several, under torchrun, where one is ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures.forks.buffer import ReversedGather
from fixtures.forks.endings import Segfaults
from tests.ci.reports import PLACE, failed, report
from tests.ci.runner import Command, commands_in
from tests.commands import ROOT, Done, Run, run, torchrun
from tests.engine.gate import GATE, QUICK
from verify.ci.publication import FOLDER, publish, publish_status, shown_on_github
from verify.engine.place import Place, place_of
from verify.engine.report import Counts

pytestmark = pytest.mark.xdist_group("commands")
WRONG = ("--target", "fixtures.forks.buffer:ReversedGather", *QUICK)


def _github(summary: Path) -> dict[str, str]:
    return {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(ROOT), "GITHUB_STEP_SUMMARY": str(summary)}


def _expected(code: object) -> dict[str, str]:
    place = place_of(code)
    assert isinstance(place, Place)
    return {"file": str(Path(place.path).relative_to(ROOT)), "line": str(place.line), "title": "test_coverage"}


def _assert_marked(done: Done, code: object, says: str) -> Command:
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    (only,) = commands_in(done.out)
    assert only.name == "error"
    assert only.properties == _expected(code)
    assert says in only.message
    return only


def _assert_one_page(summary: Path, says: str) -> None:
    page = summary.read_text()
    assert page.count("\n## ") == 1, page
    assert says in page


@pytest.mark.parametrize("how", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_run_marks_the_line_and_writes_the_page_behind_what_is_there(
    run_forked: Run, tmp_path: Path, how: tuple[str, ...]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    judge = run if how else run_forked
    done = judge(*GATE, *WRONG, *how, **_github(summary))
    _assert_marked(done, ReversedGather.forward_video_grounding_multigpu, "not that frame's own detection")
    assert summary.read_text().startswith("before\n")
    _assert_one_page(summary, "violates")


def test_the_command_marks_the_line_once(tmp_path: Path) -> None:
    done = run("verify", *WRONG, **_github(tmp_path / "summary.md"))
    _assert_marked(done, ReversedGather.forward_video_grounding_multigpu, "not that frame's own detection")
    _assert_one_page(tmp_path / "summary.md", "violates")


def test_a_target_that_ends_the_process_is_marked_all_the_same(tmp_path: Path) -> None:
    done = run("verify", "--target", "fixtures.forks.endings:Segfaults", *QUICK, **_github(tmp_path / "summary.md"))
    _assert_marked(done, Segfaults.forward_video_grounding_multigpu, "ended by SIGSEGV")
    _assert_one_page(tmp_path / "summary.md", "SIGSEGV")


def test_under_torchrun_rank_0_alone_tells(tmp_path: Path) -> None:
    only = ("--target", "fixtures.forks.buffer:ReversedGather", "--only", "test_coverage", "--launcher", "processes")
    done = torchrun(2, "-m", *GATE, *only, **_github(tmp_path / "summary.md"))
    assert done.status != 0
    marks = commands_in(done.out)
    assert [mark.properties for mark in marks] == [_expected(ReversedGather.forward_video_grounding_multigpu)]
    _assert_one_page(tmp_path / "summary.md", "violates")


def test_a_run_that_cannot_begin_is_marked(tmp_path: Path) -> None:
    done = run("verify", "--target", "./nowhere/", **_github(tmp_path / "summary.md"))
    assert done.status == pytest.ExitCode.USAGE_ERROR
    (only,) = commands_in(done.out)
    assert (only.name, "status 4" in only.message) == ("error", True)
    assert not (tmp_path / "summary.md").exists()


def test_elsewhere_nothing_is_told(tmp_path: Path) -> None:
    done = run("verify", *WRONG, **{**_github(tmp_path / "summary.md"), "GITHUB_ACTIONS": "false"})
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert commands_in(done.out) == []
    assert "stop-commands" not in done.out
    assert not (tmp_path / "summary.md").exists()


SHOUTS = """
import sys
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

sys.__stdout__.write("::warning::at import\\n")


class Shouts(Sam3ImageOnVideoMultiGPU):
    def forward_video_grounding_multigpu(self, *args, **kwargs):
        print("::warning::from a print")
        print("\\n  ##[warning]in the older way", file=sys.stderr)
        raise ValueError("it is wrong\\n::warning::from an exception\\n</td><script>")
"""


def test_what_a_target_prints_and_raises_is_no_command(tmp_path: Path) -> None:
    (tmp_path / "shouts.py").write_text(SHOUTS)
    summary = tmp_path / "summary.md"
    variables = {**_github(summary), "GITHUB_WORKSPACE": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    only = ("--only", "test_answers_at_all,test_coverage", "--launcher", "threads")
    done = run("verify", "--target", "shouts:Shouts", *only, **variables)
    assert "::warning::" in done.out
    (mark,) = commands_in(done.out)
    line = 1 + SHOUTS.split("\n").index(next(line for line in SHOUTS.split("\n") if "raise ValueError" in line))
    assert mark.name == "error"
    assert (mark.properties["file"], mark.properties["line"]) == ("shouts.py", str(line))
    assert "<script" not in summary.read_text().replace("```", "")


@pytest.fixture
def _on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", "/fork")


@pytest.mark.usefixtures("_on_github")
@pytest.mark.parametrize("summary", ["/no/such/folder/summary.md", "/"])
def test_a_page_that_cannot_be_written_costs_a_warning_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, summary: str
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", summary)
    printed: list[str] = []
    with shown_on_github(printed.append):
        publish(report(failed(place=PLACE)), Counts())
    warning, mark = commands_in("".join(printed))
    assert warning.name == "warning"
    assert summary in warning.message
    assert mark.properties["file"] == "pkg/a.py"


@pytest.mark.usefixtures("_on_github")
def test_without_a_page_or_a_workspace_there_are_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_WORKSPACE")
    printed: list[str] = []
    with shown_on_github(printed.append):
        publish(report(failed(place=PLACE)), Counts())
        publish_status(1)
    (mark,) = commands_in("".join(printed))
    assert set(mark.properties) == {"title"}


@pytest.mark.usefixtures("_on_github")
def test_of_two_reports_the_last_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    printed: list[str] = []
    with shown_on_github(printed.append):
        publish(report(failed("test_a")), Counts())
        with shown_on_github(printed.append):  # a process within one that shows already
            publish(report(failed("test_b")), Counts())
    assert [mark.properties["title"] for mark in commands_in("".join(printed))] == ["test_b"]
    _assert_one_page(tmp_path / "summary.md", "`test_b`")
    assert FOLDER not in os.environ


@pytest.mark.usefixtures("_on_github")
def test_the_page_stays_below_what_github_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    summary.write_bytes(b"x" * (1024 * 1024 - 900))
    with shown_on_github(lambda _: None):
        publish(report(*(failed(f"test_{number}", message=f"{number} " + "m" * 500) for number in range(20))), Counts())
    assert 1024 * 1024 - 900 < summary.stat().st_size < 1024 * 1024
