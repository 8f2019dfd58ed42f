"""False alarms are seen where there are any, and all that is right is tried."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.false_alarms import alarms_in, run
from fixtures.forks.right import Right, right_targets
from verify.groups import GROUPS


def report(**check: Any) -> dict[str, Any]:
    return {"checks": [{"name": "test_x", "kind": "requirement", "reason": "why", "finding": None, **check}]}


@pytest.mark.parametrize("outcome", ["failed", "xpassed", "not_triggered", "missing", "skipped", "blocked"])
def test_whatever_is_held_against_a_target_is_an_alarm(outcome: str) -> None:
    (alarm,) = alarms_in("mine", 7, 1, report(outcome=outcome), "")
    assert (alarm.seed, alarm.check, alarm.outcome, alarm.message) == (7, "test_x", outcome, "why")


def test_what_passes_is_none() -> None:
    for outcome in ("passed", "inherited", "not_provided", "not_applicable"):
        assert alarms_in("mine", 1, 0, report(outcome=outcome), "") == []


def test_a_run_without_a_report_or_with_another_status_is_one() -> None:
    assert alarms_in("mine", 1, -11, None, "Segmentation fault")[0].message == "Segmentation fault"
    assert alarms_in("mine", 1, 3, report(outcome="passed"), "INTERNALERROR")[0].outcome == "status 3"


def test_hazards_count_for_the_corrected_recipe_alone() -> None:
    hazard = report(outcome="failed", kind="hazard")
    assert alarms_in("mine", 1, 0, hazard, "") == []
    assert len(alarms_in("reference", 1, 1, hazard, "")) == 1


def test_a_target_that_is_wrong_raises_alarms() -> None:
    wrong = Right("wrong", ("--target", "fixtures.forks.buffer:ReversedGather", "--launcher", "threads"), ())
    judged = run(wrong, 3, ("test_coverage", "test_share_of_work"), "quick", 0)
    assert [(alarm.check, alarm.outcome) for alarm in judged.alarms] == [("test_coverage", "failed")]
    assert judged.cases >= 25
    assert "--case" in judged.alarms[0].replay


def test_every_target_is_named_once_and_has_groups() -> None:
    targets = list(right_targets())
    assert len({right.name for right in targets}) == len(targets) > 50
    assert all(right.groups and set(right.groups) <= set(GROUPS) for right in targets)
