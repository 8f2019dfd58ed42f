"""Whatever a target does to the process that judges it, there is a verdict, and a finding that says what ended it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.commands import ROOT, Done, Run, run
from tests.engine.gate import GATE, QUICK
from verify.engine import aftermath, journal
from verify.engine.finding import Violation
from verify.engine.journal import Journal, UnderWay
from verify.engine.supervisor import End, supervise

pytestmark = pytest.mark.xdist_group("commands")
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())
#: Two checks, so that one is left when the other ends the process.
CHECKS = ("--only", "test_coverage,test_prefetch", "--launcher", "threads")


def _target(name: str) -> tuple[str, str]:
    return "--target", f"fixtures.forks.endings:{name}"


def _written(report: Path) -> dict[str, dict[str, Any]]:
    """The checks of a report that keeps to the schema and violates, by name."""
    data = json.loads(report.read_text())
    jsonschema.validate(data, SCHEMA)
    assert data["verdict"] == "violates", data["because"]
    return {check["name"]: check for check in data["checks"]}


def _assert_names_the_case(check: dict[str, Any], target: str, says: str) -> None:
    finding = check["finding"]
    assert check["outcome"] == "failed"
    assert re.search(says, finding["message"]), finding["message"]
    assert finding["case"]["frames"] > 1
    assert f"--target fixtures.forks.endings:{target} --only {check['name']}" in finding["replay"]
    assert "--case" in finding["replay"]


# What is caught where it happens, under a plain pytest as well


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("SysExit", "raised SystemExit: 0"),
        ("Interrupts", "raised KeyboardInterrupt"),
        ("RunsOutOfMemory", "frame 1: MemoryError"),
        ("ReplacesSignals", "ValueError: signal only works in main thread"),
        ("LeavesAutocastOpen", "rank 0 raised TorchChanged: .*: contexts of autocast that are open: 0 before"),
        ("ChangesTheDefaultType", r"TorchChanged: .*: the type of new tensors: torch\.float32 before, torch\.float64"),
        ("ClosesStdout", "the target closed file descriptor 1, a standard stream of the process"),
        ("ClosesStreams", r"the target closed sys\.stdout and closed sys\.stderr"),
        ("EmptiesModules", r"the target took \d+ modules from sys\.modules"),
        ("ReplacesModules", r"the target replaced sys\.modules"),
    ],
)
def test_what_is_done_to_the_process_is_found_and_the_run_goes_on(
    run_forked: Run, tmp_path: Path, target: str, says: str
) -> None:
    report = tmp_path / "report.json"
    done = run_forked(*GATE, *_target(target), *CHECKS, "--report", str(report))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    checks = _written(report)
    _assert_names_the_case(checks["test_coverage"], target, says)
    _assert_names_the_case(checks["test_prefetch"], target, says)


def test_a_builder_that_exits_is_a_wrong_target(run_forked: Run, tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("def build(**_):\n    raise SystemExit(0)\n")
    done = run_forked(*GATE, "--builder", "exits:build", PYTHONPATH=str(tmp_path))
    assert done.status == pytest.ExitCode.USAGE_ERROR, done.out + done.err
    assert "raised SystemExit: 0" in done.err


# What ends the process


def _judged(run_forked: Run, folder: Path, target: str, report: Path) -> Done:
    """Judge in a process that keeps a journal in ``folder``."""
    folder.mkdir()
    return run_forked(*GATE, *_target(target), *CHECKS, "--report", str(report), **{journal.VARIABLE: str(folder)})


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("Segfaults", "was ended by SIGSEGV, while a case of it was run"),
        ("Aborts", "was ended by SIGABRT, while a case of it was run"),
        ("KillsItself", "was ended by SIGKILL, perhaps for want of memory, while"),
        ("Terminates", "was ended by SIGTERM, while"),
    ],
)
def test_a_process_that_a_signal_ends_leaves_what_its_report_is_made_of(
    run_forked: Run, tmp_path: Path, target: str, says: str
) -> None:
    folder, report = tmp_path / "journal", tmp_path / "report.json"
    done = _judged(run_forked, folder, target, report)
    assert done.status < 0
    assert not report.exists()
    end = End(done.status, journal.read_status(folder))
    lines = aftermath.conclude(folder, end.in_words(), by_target=True)
    checks = _written(report)
    _assert_names_the_case(checks["test_coverage"], target, says)
    assert checks["test_prefetch"]["outcome"] == "missing"
    assert lines[-1] == f"verdict: fixtures.forks.endings:{target} violates: 1 failed"
    if target == "Segfaults":
        assert "endings.py" in checks["test_coverage"]["finding"]["details"]


def test_a_target_that_ends_the_process_when_it_is_built_violates(tmp_path: Path, run_forked: Run) -> None:
    folder, report = tmp_path / "journal", tmp_path / "report.json"
    with pytest.raises(RuntimeError, match="left with status 0 before its end"):
        _judged(run_forked, folder, "ExitsWhenBuilt", report)
    aftermath.conclude(folder, End(0, None).in_words(), by_target=True)
    assert _written(report) == {}
    (note,) = json.loads(report.read_text())["notes"]
    assert re.fullmatch(
        r"The process .* ended itself with status 0, .*, while the target was imported and built\.", note
    )


def test_an_interrupt_that_nobody_sent_is_the_targets(run_forked: Run, tmp_path: Path) -> None:
    folder, report = tmp_path / "journal", tmp_path / "report.json"
    done = _judged(run_forked, folder, "SendsAnInterrupt", report)
    assert done.status == pytest.ExitCode.INTERRUPTED, done.out + done.err
    assert journal.was_interrupted(folder)
    aftermath.conclude(folder, End(done.status, done.status).in_words(), by_target=True)
    _assert_names_the_case(_written(report)["test_coverage"], "SendsAnInterrupt", "was interrupted")


def test_threads_that_keep_the_process_from_ending_are_named_with_the_case_that_began_them(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    done = run("verify", *_target("LeavesThreads"), *QUICK, "--report", str(report))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    _assert_names_the_case(_written(report)["test_coverage"], "LeavesThreads", r"did not end .* \(prefetcher\)")


def test_the_command_has_a_verdict_where_the_process_is_left_with_status_0(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run("verify", *_target("Exits"), *CHECKS, "--report", str(report))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    _assert_names_the_case(_written(report)["test_coverage"], "Exits", "ended itself with status 0")
    assert "verdict: fixtures.forks.endings:Exits violates: 1 failed" in done.out


def test_a_worker_that_is_ended_ends_the_run_with_a_finding(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(*GATE, *_target("Exits"), *CHECKS, "-n", "1", "--report", str(report))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    checks = _written(report)
    says = r"a worker of xdist was ended, while a case of it was run"
    _assert_names_the_case(checks["test_coverage"], "Exits", says)
    assert checks["test_prefetch"]["outcome"] == "missing"


# The supervisor, with processes that stand for one that judges


CHILD = """
import os, signal, sys, threading, time
from verify.engine import interrupt, journal
from verify.engine.aftermath import Plan
from verify.engine.journal import UnderWay
from verify.engine.report import Counts, Planned
from verify.groups import registered

check = registered()["test_coverage"]
kept = journal.journal_of_process()
interrupt.listen(kept.interrupted)
sam3 = {{"version": "", "commit": None, "folder": ""}}
target = {{"spec": "x", "builder": None, "origin": "", "sam3": sam3, "subjects": []}}
planned = (Planned(check, "", 1),)
kept.plan(Plan("nothing was done", target, {{}}, planned, Counts(), {report!r}, 600.0).as_json())
kept.begin(UnderWay("a case of it was run", check.name, check.group, check.kind, "threads", "x", "--target x"))
print("begun", flush=True)
{then}
"""


def _child(tmp_path: Path, then: str) -> list[str]:
    code = CHILD.format(report=str(tmp_path / "report.json"), then=then)
    return [sys.executable, "-c", code]


def test_a_process_that_cannot_be_interrupted_is_ended(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hold = "import ctypes; ctypes.PyDLL(None).sleep(1000)"
    assert supervise(_child(tmp_path, hold), patience=20.0) == 1
    finding = _written(tmp_path / "report.json")["test_coverage"]["finding"]
    assert "did not go on for 20 s, and could not be interrupted, while a case of it was run" in finding["message"]
    assert "violates" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("then", "number", "status"),
    [
        ("try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    journal.close(2); sys.exit(2)", signal.SIGINT, 2),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, {2}); time.sleep(100)", signal.SIGINT, 130),
        ("time.sleep(100)", signal.SIGTERM, 143),
    ],
    ids=["interrupted", "interrupted where it does not notice", "terminated"],
)
def test_who_ends_the_run_from_outside_is_obeyed(tmp_path: Path, then: str, number: int, status: int) -> None:
    code = "import sys; from verify.engine.supervisor import supervise; sys.exit(supervise(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *_child(tmp_path, then)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        begun = time.monotonic()
        assert process.wait(60) == status
        assert time.monotonic() - begun < 40
    if number == signal.SIGTERM:
        data = json.loads((tmp_path / "report.json").read_text())
        assert (data["verdict"], data["checks"][0]["outcome"]) == ("incomplete", "missing")


# The journal


def test_a_page_outlives_descriptors_and_says_what_was_written_last(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    for frames in (1, 300_000):
        kept.begin(UnderWay("it is made", "test_x", case={"frames": frames, "visits": [0] * frames}))
        (page,) = journal.pages(tmp_path)
        assert page.under_way is not None
        assert page.under_way.check == "test_x"
        assert (page.under_way.case is None) == (frames > 1)  # too long for a page
    kept.begin(None)
    (page,) = journal.pages(tmp_path)
    assert (page.under_way, page.written) == (None, 3)


def test_a_result_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    kept = Journal(tmp_path)
    kept.add({"check": "test_x"})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"check": "tes')
    assert journal.read_results(tmp_path) == [{"check": "test_x"}]


def test_a_finding_of_what_was_under_way_can_be_run_again() -> None:
    under_way = UnderWay("it is made", "test_x", launcher="threads", options="--target x", case={"world_size": 3})
    finding = under_way.finding(Violation("ended"))
    assert finding.world_size == 3
    assert finding.replay.endswith("--target x --only test_x --launcher threads --case '{\"world_size\":3}'")
