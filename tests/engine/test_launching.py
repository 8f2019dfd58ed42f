"""The gate started in every way there is: on a checkout, as a module, by xdist and by torchrun."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import sam3

from tests.commands import ROOT, Run, run, torchrun
from tests.engine.gate import GATE, QUICK, assert_short_error
from verify.engine.check import PROCESSES
from verify.groups import ON_PROCESSES, registered


def test_a_checkout_that_does_not_import(tmp_path: Path) -> None:
    package = tmp_path / "sam3"
    (package / "model").mkdir(parents=True)
    for name in ("__init__.py", "model/__init__.py"):
        (package / name).write_text("")
    (package / "model" / "sam3_image.py").write_text("import torch\nfrom sam3.model.lost import Thing\n")
    message = (
        rf"checkout's sam3 does not import: ModuleNotFoundError: .*lost.* \({package}/model/sam3_image.py, line 2\)"
    )
    assert_short_error(run(*GATE, "--target", str(tmp_path)), message)


def test_a_checkout_is_verified_in_place_of_the_installed_package(tmp_path: Path) -> None:
    (tmp_path / "sam3").symlink_to(Path(sam3.__file__).parent)
    report = tmp_path / "report.json"
    only = ("--only", "test_features_on_request", "--launcher", "threads")
    done = run(*GATE, "--target", str(tmp_path), *only, "--report", str(report))
    written = json.loads(report.read_text())
    assert written["target"]["origin"].startswith(str(tmp_path))
    assert written["target"]["sam3"]["folder"].startswith(str(tmp_path))
    # The checkout's code is the release's, and so are its defects.
    assert done.status == pytest.ExitCode.OK, done.out
    assert written["checks"][0]["outcome"] == "inherited"
    assert written["because"] == "0 checks passed but for 1 defect inherited from sam3 0.1.4"


def test_runs_as_a_module() -> None:
    done = run("verify", *QUICK)
    assert done.status == pytest.ExitCode.OK, done.out + done.err
    assert "verdict: sam3 conforms" in done.out


#: A plugin of pytest's that says whether the server of ranks runs when collecting begins, and when it has ended.
_LOOKS = """
from multiprocessing import forkserver

import pytest

def look():
    open("LOOKED", "a").write(f"{forkserver._forkserver._forkserver_pid is not None} ")

def pytest_collection():
    look()

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    look()
"""


@pytest.mark.xdist_group("commands")
@pytest.mark.parametrize(
    ("options", "server"),
    [
        ("--only parity -k test_parity_nms", "True True"),
        ("--only test_parity_nms", "False True"),
        ("--only schedule --launcher threads -k test_answers_at_all", "False False"),
        ("--only gradients,builder -k test_nothing", "False False"),
        ("--only parity --collect-only", "False False"),
    ],
)
def test_the_server_of_ranks_imports_beside_the_gate_where_it_is_needed(
    run_forked: Run, tmp_path: Path, options: str, server: str
) -> None:
    (tmp_path / "looks.py").write_text(_LOOKS.replace("LOOKED", str(tmp_path / "looked")))
    done = run_forked(*GATE, "-n", "0", "-p", "looks", *options.split(), PYTHONPATH=str(tmp_path))
    assert (tmp_path / "looked").read_text().strip() == server, done.out + done.err


def test_groups_on_processes_are_those_of_such_checks() -> None:
    assert {check.group for check in registered().values() if PROCESSES in check.launchers} == ON_PROCESSES


def test_workers_judge_and_the_controller_reports(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(*GATE, "--only", "test_coverage,test_prefetch", "-n", "2", "-v", "--report", str(report))
    assert done.status == pytest.ExitCode.OK, done.out
    assert {check["outcome"] for check in json.loads(report.read_text())["checks"]} == {"passed"}
    on_processes = re.findall(r"\[(gw\d)\].* PASSED .*\[processes\]", done.out)
    assert len(on_processes) == 2
    assert len(set(on_processes)) == 1, "workers make groups of processes of their own"


@pytest.mark.parametrize(("target", "status"), [("sam3", 0), ("fixtures.forks.buffer:ReversedGather", 1)])
def test_ranks_of_torchrun_agree_and_rank_0_reports(tmp_path: Path, target: str, status: int) -> None:
    report = tmp_path / "report.json"
    checks = ("--only", "test_coverage,test_parity_detections", "--report", str(report))
    done = torchrun(2, "-m", *GATE, "--target", target, *checks)
    assert (done.status != 0) == bool(status), done.out + done.err
    written = json.loads(report.read_text())
    assert written["verdict"] == ("violates" if status else "conforms")
    assert written["environment"]["torchrun_world_size"] == 2
    assert done.out.count("test session starts") == 1
    assert done.out.count("verdict: ") == 1


def test_ranks_started_with_different_options(tmp_path: Path) -> None:
    launcher = tmp_path / "launch.py"
    launcher.write_text(
        "import os, sys, pytest\n"
        "hazards = 'fail' if os.environ['RANK'] == '1' else 'report'\n"
        "sys.exit(pytest.main(['verify', '--only', 'test_coverage', '--hazards', hazards]))\n"
    )
    done = torchrun(2, str(launcher), PYTHONPATH=str(ROOT))
    assert done.status != 0
    assert "different options: --hazards is report on rank 0 and fail on rank 1" in done.err, done.err
