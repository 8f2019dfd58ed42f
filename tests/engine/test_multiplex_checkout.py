"""A checkout laid out as SAM 3.1: judged through its predictor and in its precision, and a base to train on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import checkout
from tests.commands import ROOT, run
from tests.engine.gate import GATE

pytestmark = pytest.mark.xdist_group("checkout")
CHUNKED, BATCHED = "Sam3ImageOnVideoMultiGPU:chunked", "MultiplexDetector:batched"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("checkout")
    checkout.write(made)
    yield made
    shutil.rmtree(made)


def judged(report: Path, *arguments: str) -> tuple[int, dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """The gate's exit status, its report, and the report's checks by name and subject."""
    done = run(*GATE, *arguments, "--report", str(report), PYTHONPATH=str(ROOT))
    assert report.exists(), done.out + done.err
    written = json.loads(report.read_text())
    return done.status, written, {(check["name"], check.get("subject", "")): check for check in written["checks"]}


def test_its_subjects_are_judged_as_its_callers_run_them(folder: Path, tmp_path: Path) -> None:
    only = "test_coverage,test_limited_scan,test_limited_residency,test_parity_tracker_features"
    status, written, checks = judged(tmp_path / "report.json", "--target", str(folder), "--only", only)
    outcomes = {key: check["outcome"] for key, check in checks.items()}
    assert {subject for _, subject in outcomes} == {CHUNKED, BATCHED}
    passed = {key for key, outcome in outcomes.items() if outcome == "passed"}
    assert passed == set(outcomes) - {("test_limited_scan", BATCHED), ("test_limited_residency", BATCHED)}, outcomes
    # Its batched buffer is its own: what that does wrong is inherited from nobody.
    assert outcomes["test_limited_scan", BATCHED] == outcomes["test_limited_residency", BATCHED] == "failed"
    assert status == pytest.ExitCode.TESTS_FAILED
    notes = " ".join(written["notes"])
    assert all(f"{subject} was run under bfloat16 autocast" in notes for subject in (CHUNKED, BATCHED))


def test_a_loop_that_meets_its_kernel_has_one_cause(folder: Path, tmp_path: Path) -> None:
    only = "test_step_runs,test_clip_loss,test_no_frame_leaks"
    status, written, checks = judged(
        tmp_path / "report.json", "--target", "posted", "--sam3", str(folder), "--only", only
    )
    assert status == pytest.ExitCode.TESTS_FAILED
    step = checks["test_step_runs", ""]
    assert step["outcome"] == "failed"
    assert f"{folder}/sam3/perflib/fused.py, line 13" in step["finding"]["message"], step["finding"]
    assert step["finding"]["place"] == {
        "path": f"{folder}/sam3/perflib/fused.py",
        "line": 13,
        "what": "addmm_act",
    }
    assert {checks[name, ""]["outcome"] for name in ("test_clip_loss", "test_no_frame_leaks")} == {"blocked"}
    assert len(written["causes"]) == 1


def test_the_corrected_implementation_trains_on_it(folder: Path, tmp_path: Path) -> None:
    only = "test_step_runs,test_clip_gradients,test_same_parameters_trained"
    status, _, checks = judged(tmp_path / "report.json", "--target", "reference", "--sam3", str(folder), "--only", only)
    assert {check["outcome"] for check in checks.values()} == {"passed"}, checks
    assert status == pytest.ExitCode.OK


def test_weights_that_an_unguarded_kernel_leaves_without_gradient_are_named(tmp_path: Path) -> None:
    checkout.write_unguarded(tmp_path / "fork")
    status, _, checks = judged(
        tmp_path / "report.json", "--target", str(tmp_path / "fork"), "--only", "gradients", "--launcher", "threads"
    )
    assert status == pytest.ExitCode.TESTS_FAILED
    # The kernel computes in bfloat16 whatever it is given: in full precision no step runs, and that is said as well.
    assert checks["test_one_frame_step_runs", ""]["outcome"] == "failed"
    finding = checks["test_every_moving_parameter_has_a_gradient", ""]["finding"]
    assert finding is not None, checks
    assert re.search(r"mlp\.fc1\.(weight|bias): no gradient, though the loss moves by", finding["message"])
    names = [row[0] for row in finding["table"][1:]]
    blocks = [f"backbone.vision_backbone.trunk.blocks.{block}.mlp.fc1" for block in (0, 1)]
    assert sorted(names) == sorted(f"{block}.{part}" for block in blocks for part in ("weight", "bias"))
