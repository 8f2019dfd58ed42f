"""The gate as it is run: from the command line, with its exit status, its output and its report."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import sam3

ROOT = Path(__file__).parents[2]
#: One quick check, where any would do.
QUICK = ("--only", "test_coverage", "--launcher", "threads")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def gate(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("pytest", "verify", "-p", "no:cacheprovider", *arguments, **variables)


def assert_short_error(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1, done.stderr
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert "verification" not in done.stdout


def test_a_wrong_buffer_is_told_by_rank_frame_and_tensor_and_can_be_replayed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = gate("--target", "fixtures.forks.buffer:ReversedGather", *QUICK, "--report", str(report))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    written = json.loads(report.read_text())
    assert written["verdict"] == "violates"
    (check,) = written["checks"]
    assert (check["name"], check["outcome"]) == ("test_coverage", "failed")
    finding = check["finding"]
    assert finding["rank"] is not None
    assert finding["frame"] is not None
    assert finding["tensor"] == "pred_logits"
    assert f"rank {finding['rank']}, call {finding['call']}, frame {finding['frame']}" in done.stdout
    command = shlex.split(finding["replay"])
    assert command[:4] == ["python", "-m", "pytest", "verify"]
    again = gate(*command[4:])
    assert again.returncode == pytest.ExitCode.TESTS_FAILED
    assert finding["message"] in again.stdout
    assert "test_coverage  failed" in again.stdout


def test_unknown_target() -> None:
    assert_short_error(gate("--target", "sam4"), "--target sam4: unknown target")


def test_torchrun_variables_in_part() -> None:
    assert_short_error(gate(WORLD_SIZE="2"), "WORLD_SIZE is set and MASTER_ADDR is not")


def test_a_checkout_that_does_not_import(tmp_path: Path) -> None:
    package = tmp_path / "sam3"
    (package / "model").mkdir(parents=True)
    for name in ("__init__.py", "model/__init__.py"):
        (package / name).write_text("")
    (package / "model" / "sam3_image.py").write_text("import torch\nfrom sam3.model.lost import Thing\n")
    message = (
        rf"checkout's sam3 does not import: ModuleNotFoundError: .*lost.* \({package}/model/sam3_image.py, line 2\)"
    )
    assert_short_error(gate("--target", str(tmp_path)), message)


def test_a_checkout_is_verified_in_place_of_the_installed_package(tmp_path: Path) -> None:
    (tmp_path / "sam3").symlink_to(Path(sam3.__file__).parent)
    report = tmp_path / "report.json"
    only = ("--only", "test_features_on_request", "--launcher", "threads")
    done = gate("--target", str(tmp_path), *only, "--report", str(report))
    written = json.loads(report.read_text())
    assert written["target"]["origin"].startswith(str(tmp_path))
    # The release's known failures are not a checkout's: it keeps its own.
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert written["checks"][0]["outcome"] == "failed"


def test_a_builder_that_cannot_be_made_small(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        "import torch\n\n\nclass Wide(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layers = torch.nn.ModuleList(torch.nn.Linear(2048, 2048) for _ in range(64))\n\n\n"
        "def build(**_):\n    return Wide()\n"
    )
    done = gate("--builder", "wide:build", PYTHONPATH=str(tmp_path))
    assert_short_error(done, "more than 12,000,000 parameters at toy width")


def test_a_malformed_known_failures_file(tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text("[[known]]\ncheck = 'test_gone'\nreason = 'x'\n")
    assert_short_error(gate("--known", str(known)), "entry 1: there is no check 'test_gone'")


def test_entries_that_do_not_fail(tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text(
        "[[known]]\ncheck = 'test_prefetch'\nreason = 'never'\n"
        "[[known]]\ncheck = 'test_coverage'\nreason = 'never'\ncondition = { world_size = [64] }\n"
    )
    done = gate("--known", str(known), "--only", "test_prefetch,test_coverage")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "test_prefetch  xpassed" in done.stdout
    assert "listed as known, but passes" in done.stdout
    assert "test_coverage  xpassed" in done.stdout
    assert "no case met the entry's condition" in done.stdout


def test_checks_that_disappear_are_missed() -> None:
    done = gate("--launcher", "threads", "--only", "test_coverage,test_prefetch", "-k", "coverage")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert re.search(r"test_prefetch\s+missing", done.stdout)
    assert "verdict: sam3 incomplete: 1 of 2 checks gave no result" in done.stdout


def test_nothing_that_ran_is_no_success() -> None:
    done = gate("--target", "sam3", "--only", "training")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert "verdict: sam3 incomplete" in done.stdout


def test_a_hazard_fails_where_that_is_asked_for() -> None:
    hazard = ("--only", "test_prompt_of_each_frame,test_coverage", "--launcher", "threads")
    reported = gate(*hazard)
    assert reported.returncode == pytest.ExitCode.OK
    assert re.search(r"test_prompt_of_each_frame\s+failed \(hazard\)", reported.stdout)
    assert gate(*hazard, "--hazards", "fail").returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.xdist_group("processes")
def test_workers_judge_and_the_controller_reports(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = gate("--only", "test_coverage,test_prefetch", "-n", "2", "-v", "--report", str(report))
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert {check["outcome"] for check in json.loads(report.read_text())["checks"]} == {"passed"}
    on_processes = re.findall(r"\[(gw\d)\].* PASSED .*\[processes\]", done.stdout)
    assert len(on_processes) == 2
    assert len(set(on_processes)) == 1, "workers make groups of processes of their own"


def test_lists_and_explains() -> None:
    listed = gate("--list-checks")
    assert listed.returncode == 0
    assert re.search(r"test_coverage +Every visited frame's answer is that frame's own detection", listed.stdout)
    explained = gate("--explain", "test_eviction_order")
    assert explained.returncode == 0
    assert "detected again, or answered with a KeyError" in explained.stdout
    assert_short_error(gate("--explain", "test_gone"), "there is no such check")


def test_runs_as_a_module() -> None:
    done = run("verify", *QUICK)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert "verdict: sam3 conforms" in done.stdout


def torchrun(world_size: int, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    launch = ("torch.distributed.run", "--nproc-per-node", str(world_size), "--rdzv-backend", "c10d")
    endpoint = ("--rdzv-endpoint", "127.0.0.1:0", "-m", "pytest", "verify", "-p", "no:cacheprovider")
    return run(*launch, *endpoint, *arguments, **variables)


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize(("target", "status"), [("sam3", 0), ("fixtures.forks.buffer:ReversedGather", 1)])
def test_ranks_of_torchrun_agree_and_rank_0_reports(tmp_path: Path, target: str, status: int) -> None:
    report = tmp_path / "report.json"
    done = torchrun(2, "--target", target, "--only", "test_coverage,test_parity_detections", "--report", str(report))
    assert (done.returncode != 0) == bool(status), done.stdout + done.stderr
    written = json.loads(report.read_text())
    assert written["verdict"] == ("violates" if status else "conforms")
    assert written["environment"]["torchrun_world_size"] == 2
    assert done.stdout.count("test session starts") == 1
    assert done.stdout.count("verdict: ") == 1


@pytest.mark.xdist_group("processes")
def test_ranks_started_with_different_options(tmp_path: Path) -> None:
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import os, sys, pytest\n"
        "hazards = 'fail' if os.environ['RANK'] == '1' else 'report'\n"
        "sys.exit(pytest.main(['verify', '--only', 'test_coverage', '--hazards', hazards]))\n"
    )
    launch = ("torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d")
    done = run(*launch, "--rdzv-endpoint", "127.0.0.1:0", str(launcher), PYTHONPATH=str(ROOT))
    assert done.returncode != 0
    assert "the ranks were started with different options: rank 0 has hazards 'False', rank 1 has 'True'" in done.stderr
