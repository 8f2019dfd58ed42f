"""Each check of sam3's Trainer fails on the bug it is for, and says so in its words."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.forks.data import CONFORMING
from fixtures.forks.data.configured import Fork, write_configuration
from fixtures.forks.trainer import BUGS
from tests.judging import assert_caught
from verify.engine.check import PROCESSES
from verify.engine.finding import Violation
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES
from verify.engine.result import NOT_PROVIDED, PASSED, SKIPPED, Result
from verify.groups import registered
from verify.target.naming import Target
from verify.trainer.case import Run, run_from_json
from verify.trainer.observation import _run

pytest_plugins = ["tests.judging"]
pytestmark = pytest.mark.xdist_group("trainer processes")
CHECKS = [name for name, check in registered().items() if check.group == "trainer"]
TRAINER_BUGS = {name: bug for name, bug in BUGS.items() if bug.check in CHECKS}
#: Learning takes long; that nothing is learnt shows at once.
SHORT = {"test_trainer_learns": Run(2, frames=2, hold_out=True, epochs=3, batch=4)}
QUICK = [name for name in CHECKS if name not in SHORT]


def judge(target: Target, check: str, launchers: Launchers) -> Result:
    return Gate(target, launchers, PROFILES["quick"], case=SHORT.get(check)).judge(registered()[check], PROCESSES)


@pytest.mark.parametrize("bug", TRAINER_BUGS.values(), ids=list(TRAINER_BUGS))
def test_bug_is_caught(bug: Fork, launchers: Launchers, tmp_path: Path) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", bug)))
    assert_caught(judge(target, bug.check, launchers), bug.says)


def test_the_corrected_recipe_learns_and_is_stopped_when_it_has(launchers: Launchers) -> None:
    learns = registered()["test_trainer_learns"]
    result = Gate(Target("reference"), launchers, PROFILES["quick"]).judge(learns, PROCESSES)
    assert result.outcome == PASSED, result
    values = result.pictures[0].data["lines"][1]["values"]
    assert 2 < len(values) < 64
    assert values[-1] < values[0] / 1.5, "on this rank's two of four clips"


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("PlainWithEpochs", QUICK),
        ("a_category_a_clip", ["test_trainer_runs", "test_ranks_agree"]),
        ("ShufflesAlone", QUICK),
        ("WarmsUp", ["test_trainer_steps"]),
        ("FreezesTheBackbone", ["test_trainer_steps"]),
        ("AccumulatesGradients", ["test_trainer_steps"]),
        ("LooksForSharpness", ["test_trainer_runs", "test_trainer_steps"]),
        ("HoldsTheLoss", QUICK),
        ("StepsRelatively", ["test_trainer_steps"]),
        ("EachVideoTwice", ["test_trainer_runs", "test_ranks_agree"]),
    ],
)
def test_variant_passes(name: str, checks: list[str], launchers: Launchers, tmp_path: Path) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", CONFORMING[name])))
    results = [judge(target, check, launchers) for check in checks]
    assert [result for result in results if result.outcome != PASSED] == []


@pytest.mark.parametrize(
    ("name", "check", "reason"),
    [
        ("collate_two", "test_trainer_runs", "the configuration accumulates gradients over lists of batches"),
        ("HoldsTheLoss", "test_trainer_learns", "what the model gives in the Trainer is not what its loss takes"),
        ("LooksForSharpness", "test_ranks_agree", "a step makes several passes over its clips"),
    ],
)
def test_what_cannot_be_seen_is_no_failure(
    name: str, check: str, reason: str, launchers: Launchers, tmp_path: Path
) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", CONFORMING[name])))
    result = judge(target, check, launchers)
    assert result.outcome == SKIPPED, result
    assert result.reason.startswith(reason)


def test_what_fails_in_watching_is_the_gates() -> None:
    nothing_to_watch: Any = SimpleNamespace(configuration=lambda output, ranks: None)
    with pytest.raises(Violation, match="a defect of the gate, in watching the Trainer: AttributeError"):
        _run(nothing_to_watch, "run", 1)


def test_how_far_adapters_get_is_not_known(launchers: Launchers) -> None:
    target = Target("reference", builder="fixtures.forks.builder:adapted")
    results = {check: judge(target, check, launchers) for check in ("test_trainer_learns", "test_trainer_steps")}
    assert results["test_trainer_steps"].outcome == PASSED, results
    assert results["test_trainer_learns"].outcome == SKIPPED, results
    assert re.match(r"\d+% of the model's weights are trained", results["test_trainer_learns"].reason)


def test_posted_gets_no_clip(launchers: Launchers) -> None:
    finding = assert_caught(judge(Target("posted"), "test_trainer_runs", launchers), r"\(Not enough stages to sample\)")
    message = "which makes datapoints of 1 frame where 3 are asked for: RuntimeError: Failed 100 times"
    assert message in finding.message


def test_a_target_without_a_forward_over_frames_is_not_provided(launchers: Launchers) -> None:
    result = judge(Target("sam3", loader="reference.data.coco_video:CocoVideo"), "test_trainer_runs", launchers)
    assert result.outcome == NOT_PROVIDED
    assert "takes a single one" in result.reason


@pytest.mark.parametrize(
    ("case", "message"),
    [({"epochs": 0}, "epochs is 0: expected a number"), ({"hold_out": 1}, "true or false"), ({"gpus": 1}, "unknown")],
)
def test_malformed_case(case: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_from_json(case)


def test_a_case_is_read_as_it_was_written() -> None:
    case = Run(2, epochs=5, hold_out=True)
    assert run_from_json(case.as_json()) == case
