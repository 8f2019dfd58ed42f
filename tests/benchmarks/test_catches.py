"""The table of checks and bugs counts what fails, and says what is to be questioned."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.catches.judging import BASES, Caught, apart, base_of, checks_for, judge_alone, needs_processes
from benchmarks.catches.table import Row, lines, missed_by_its_own, rows, uncaught
from benchmarks.forked import in_forks
from fixtures.forks.wrong import wrong_targets
from verify.groups import registered
from verify.target.loading import load
from verify.target.naming import Target

CHECKS = registered()
COVERAGE, SHARE, RESIDENCY = (CHECKS[name] for name in ("test_coverage", "test_share_of_work", "test_residency"))


def caught(bug: str, *by: str, check: str = "test_coverage") -> Caught:
    outcomes = {each.name: "passed" for each in (COVERAGE, SHARE)} | dict.fromkeys(by, "failed")
    return Caught(bug, check, outcomes, 1.0)


EVERY = (
    caught("buffer:One", "test_coverage"),
    caught("buffer:Two", "test_coverage", "test_share_of_work"),
    caught("buffer:Three", "test_share_of_work"),
    caught("buffer:None"),
)


def test_a_row_says_what_a_check_catches_and_what_it_alone() -> None:
    assert rows(EVERY, (COVERAGE, SHARE, RESIDENCY)) == [
        Row("test_coverage", "schedule", 4, ("buffer:One", "buffer:Two"), ("buffer:One",)),
        Row("test_share_of_work", "schedule", 4, ("buffer:Two", "buffer:Three"), ("buffer:Three",)),
    ]


def test_what_nothing_catches_and_what_its_own_check_misses_is_said() -> None:
    assert uncaught(EVERY) == ["buffer:None"]
    assert missed_by_its_own(EVERY) == ["buffer:Three (test_coverage)"]
    said = "\n".join(lines(EVERY, (COVERAGE, SHARE)))
    assert "| schedule | 4 | 3 | 2 | 2 | 2 |" in said
    assert "| `test_coverage` | schedule | 2 of 4 | 1 `One` |" in said
    assert "Bugs that no check catches: buffer:None." in said
    assert "Checks that catch nothing alone: none." in said


@pytest.mark.parametrize("outcome", ["blocked", "skipped", "not_provided", "passed"])
def test_what_does_not_fail_catches_nothing(outcome: str) -> None:
    assert Caught("buffer:One", "test_coverage", {"test_coverage": outcome}, 1.0).by == ()


def test_what_fails_without_a_bug_as_well_does_not_catch_it() -> None:
    base = caught("buffer:", "test_share_of_work")
    assert apart(EVERY[1], base).by == ("test_coverage",)
    assert apart(EVERY[2], base).by == ()
    assert apart(caught("buffer:Own", "test_share_of_work", check="test_share_of_work"), base).by == (
        "test_share_of_work",
    )


def test_bugs_are_made_of_what_is_there_and_what_they_are_made_of_of_nothing() -> None:
    made_of = {bug.name: base_of(bug) for bug in wrong_targets()}
    assert {base.options["spec"] for base in made_of.values() if base} == set(BASES.values())
    assert all(load(Target(**base.options)).detector for base in made_of.values() if base)
    assert made_of["training:SteppedLoop"] is None


def test_every_bug_is_judged_by_the_check_that_it_is_for() -> None:
    bugs = list(wrong_targets())
    assert len({bug.name for bug in bugs}) == len(bugs) > 300
    assert [bug.name for bug in bugs if CHECKS[bug.check] not in checks_for(bug)] == []


def test_a_bug_is_caught_by_its_check_and_not_by_all() -> None:
    (bug,) = (bug for bug in wrong_targets() if bug.name == "buffer:NoPrefetch")
    assert not needs_processes(bug)
    (ended,) = in_forks(partial(judge_alone, 4), [bug], 1, 200)
    assert ended.given is not None
    assert bug.check in ended.given.by
    assert "test_coverage" not in ended.given.by
