"""False alarms are seen where there are any, and all that is right is tried."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.false_alarms.alarms import Alarm, How, Judged, alarms_in, judge, put_together
from fixtures.forks.right import Right, right_targets
from tests.commands import Done, Run, run_within
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


@pytest.mark.xdist_group("commands")
def test_a_target_that_is_wrong_raises_alarms(run_forked: Run) -> None:
    wrong = Right("wrong", ("--target", "fixtures.forks.buffer:ReversedGather"), ())
    judged = judge(run_forked, wrong, 3, How(("test_coverage", "test_share_of_work"), launcher="threads"))
    assert [(alarm.check, alarm.outcome) for alarm in judged.alarms] == [("test_coverage", "failed")]
    assert judged.cases >= 25
    assert "--case" in judged.alarms[0].replay


@pytest.mark.parametrize("error", [TimeoutError("took longer than 3 s"), RuntimeError("was left before its end")])
def test_a_run_without_an_end_is_an_alarm(error: Exception) -> None:
    def run(module: str, *arguments: str, **variables: str) -> Done:
        raise error

    (alarm,) = judge(run, Right("mine", (), ()), 5, How(("schedule",))).alarms
    assert (alarm.seed, alarm.outcome, alarm.message) == (5, "no end", str(error))


def test_a_command_that_takes_longer_is_ended() -> None:
    with pytest.raises(TimeoutError, match=r"python -m timeit took longer than 0\.5 s"):
        run_within(0.5, "timeit", "-n1", "-r1", "import time; time.sleep(60)")


@pytest.mark.xdist_group("commands")
def test_the_order_of_checks_is_the_seeds(run_forked: Run) -> None:
    orders = []
    for seed in (1, 1, 2):
        done = run_forked("pytest", __file__, "--collect-only", "-q", "-p", "benchmarks.shuffled", SHUFFLED=str(seed))
        orders.append([line for line in done.out.splitlines() if "::" in line])
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] == orders[1] != orders[2]


def test_runs_are_put_together() -> None:
    alarm = Alarm("mine", 2, "test_x", "failed", "why", "")
    judged = put_together([Judged("mine", 1, 2, 30, ()), Judged("mine", 1, 2, 31, (alarm,))])
    assert judged == Judged("mine", 2, 4, 61, (alarm,))


def test_every_target_is_named_once_and_has_groups() -> None:
    targets = list(right_targets())
    assert len({right.name for right in targets}) == len(targets) > 50
    assert all(right.groups and set(right.groups) <= set(GROUPS) for right in targets)
