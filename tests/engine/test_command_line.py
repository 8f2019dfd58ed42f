"""The gate as it is run: from the command line, with its exit status, its output and its report."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.commands import ROOT, Done, Run
from tests.engine.gate import GATE, QUICK, assert_short_error

pytestmark = pytest.mark.xdist_group("commands")
Gate = Callable[..., Done]


@pytest.fixture
def gate(run_forked: Run) -> Gate:
    return partial(run_forked, *GATE)


def test_a_wrong_buffer_is_told_by_rank_frame_and_tensor_and_can_be_replayed(gate: Gate, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = gate("--target", "fixtures.forks.buffer:ReversedGather", *QUICK, "--report", str(report))
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.out + done.err
    written = json.loads(report.read_text())
    assert written["verdict"] == "violates"
    (check,) = written["checks"]
    assert (check["name"], check["outcome"]) == ("test_coverage", "failed")
    finding = check["finding"]
    assert finding["rank"] is not None
    assert finding["frame"] is not None
    assert finding["tensor"] == "pred_logits"
    assert f"rank {finding['rank']}, call {finding['call']}, frame {finding['frame']}" in done.out
    command = shlex.split(finding["replay"])
    assert command[:4] == ["python", "-m", "pytest", "verify"]
    again = gate(*command[4:])
    assert again.status == pytest.ExitCode.TESTS_FAILED
    assert finding["message"] in again.out
    assert "schedule  1 failed" in again.out


def test_unknown_target(gate: Gate) -> None:
    assert_short_error(gate("--target", "sam4"), "--target sam4: unknown target")


def test_torchrun_variables_in_part(gate: Gate) -> None:
    assert_short_error(gate(WORLD_SIZE="2"), "WORLD_SIZE is set and MASTER_ADDR is not")


def test_a_builder_that_cannot_be_made_small(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        "import torch\n\n\nclass Wide(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layers = torch.nn.ModuleList(torch.nn.Linear(2048, 2048) for _ in range(64))\n\n\n"
        "def build(**_):\n    return Wide()\n"
    )
    done = gate("--builder", "wide:build", PYTHONPATH=str(tmp_path))
    assert_short_error(done, "more than 12,000,000 parameters at toy width")


def test_a_malformed_known_failures_file(gate: Gate, tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text("[[known]]\ncheck = 'test_gone'\nreason = 'x'\n")
    assert_short_error(gate("--known", str(known)), r"entry 1 \(line 1\): there is no check 'test_gone'")


def test_entries_that_do_not_fail(gate: Gate, tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text(
        "[[known]]\ncheck = 'test_prefetch'\nreason = 'never'\n"
        "[[known]]\ncheck = 'test_coverage'\nreason = 'never'\ncondition = { world_size = [64] }\n"
    )
    done = gate("--known", str(known), "--only", "test_prefetch,test_coverage")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert "xpassed: test_prefetch: listed as known, but passes: never" in done.out
    assert "listed as known, but passes" in done.out
    assert "xpassed: test_coverage: listed as known, but no case met the entry" in done.out
    assert "no case met the entry's condition" in done.out


def test_checks_that_disappear_are_missed(gate: Gate) -> None:
    done = gate("--launcher", "threads", "--only", "test_coverage,test_prefetch", "-k", "coverage")
    assert done.status == pytest.ExitCode.TESTS_FAILED
    assert "missing: test_prefetch: gave no result" in done.out
    assert "verdict: sam3 incomplete: 1 of 2 checks gave no result" in done.out


def test_nothing_that_ran_is_no_success(gate: Gate) -> None:
    done = gate("--target", "sam3", "--only", "training")
    assert done.status == pytest.ExitCode.NO_TESTS_COLLECTED, done.out
    assert "verdict: sam3 incomplete" in done.out


def test_what_is_required_and_cannot_be_made_fails(gate: Gate) -> None:
    lacking = ("--only", "test_defaults_of_arguments,training", "--launcher", "threads")
    assert gate(*lacking).status == pytest.ExitCode.OK
    required = gate(*lacking, "--require", "training")
    assert required.status == pytest.ExitCode.TESTS_FAILED
    assert "required, and not provided: " in required.out, required.out
    assert " required and not provided" in required.out.partition("verdict: sam3 violates: ")[2]
    assert gate(*lacking, "--require", "test_defaults_of_arguments").status == pytest.ExitCode.OK


def test_a_hazard_fails_where_that_is_asked_for(gate: Gate) -> None:
    hazard = ("--only", "test_prompt_of_each_frame,test_coverage", "--launcher", "threads", "--known", "none")
    reported = gate(*hazard)
    assert reported.status == pytest.ExitCode.OK
    assert "failed (hazard): test_prompt_of_each_frame: " in reported.out
    assert gate(*hazard, "--hazards", "fail").status == pytest.ExitCode.TESTS_FAILED


def test_of_what_is_inherited_no_stack_is_drawn(run_forked: Run, tmp_path: Path) -> None:
    told = "def pytest_runtest_logreport(report):\n    if report.when == 'call': print('\\ntold:', report.longrepr)\n"
    (tmp_path / "tells.py").write_text(told)
    only = ("--only", "test_features_on_request", "--launcher", "threads")
    done = run_forked(*GATE, "-n", "0", "-p", "tells", *only, PYTHONPATH=str(tmp_path))
    assert done.out.partition("told: ")[2].startswith("inherited from sam3 0.1.4: features are stored as")


def test_lists_and_explains(gate: Gate) -> None:
    listed = gate("--list-checks")
    assert listed.status == 0
    assert re.search(r"test_coverage +Every visited frame's answer is that frame's own detection", listed.out)
    explained = gate("--explain", "test_eviction_order")
    assert explained.status == 0
    assert "detected again, or answered with a KeyError" in explained.out
    assert_short_error(gate("--explain", "test_gone"), "there is no such check")


def test_on_a_terminal_progress_is_written_over() -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", *GATE, *QUICK]
    with subprocess.Popen(command, cwd=ROOT, stdout=child, stderr=child) as process:
        os.close(child)
        said = _read_all(parent)
        assert process.wait() == pytest.ExitCode.OK
    assert re.search(r"\r\x1b\[K\[0/1\] test_coverage on threads: \d+ cases so far", said)
    assert re.search(r"schedule  1 passed; [\d.]+ s", said.rpartition("\x1b[K")[2])


def _read_all(terminal: int) -> str:
    """What is written to a terminal until nobody has it open any more, which ends in an error."""
    said = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 1 << 16):
            said += part
    os.close(terminal)
    return said.decode()
