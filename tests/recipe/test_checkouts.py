"""Other versions of sam3, judged and trained on: SAM3_CHECKOUTS names folders that hold upstream's package sam3."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands import run
from tests.engine.gate import GATE

FOLDERS = [folder for folder in os.environ.get("SAM3_CHECKOUTS", "").split(os.pathsep) if folder]


@pytest.fixture(params=FOLDERS or [None])
def folder(request: pytest.FixtureRequest) -> str:
    if request.param is None:
        pytest.skip("SAM3_CHECKOUTS names no folder with a package sam3")
    return request.param


def test_a_plain_copy_has_no_defects_of_its_own(folder: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    only = ("--only", "schedule,parity", "--report", str(report))
    done = run(*GATE, "--target", f"{folder}/", *only, PYTHONWARNINGS="ignore")
    assert done.status == pytest.ExitCode.OK, done.out + done.err
    outcomes = {check["outcome"] for check in json.loads(report.read_text())["checks"]}
    assert outcomes <= {"passed", "inherited", "not_applicable", "not_provided"}


def test_the_corrected_implementation_trains_and_runs_on_it(folder: str) -> None:
    done = run("tests.recipe.on_checkout", folder, PYTHONWARNINGS="ignore")
    assert done.status == 0, done.err
