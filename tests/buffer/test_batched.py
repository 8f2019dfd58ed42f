"""The checks of the batched buffer: each fails on its seeded bugs, and right variants pass every requirement."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from fixtures.forks.batched import BUGS, VARIANTS
from fixtures.forks.batched import upstream as like_upstream
from reference.oracle.batches import visits_within
from tests.judging import CHECKS, FEW, SEEDED, assert_as_stated, judge, seeded_finding
from verify.engine.check import HAZARD, PROCESSES, REQUIREMENT, THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES, Profile
from verify.engine.result import FAILED, NOT_APPLICABLE, PASSED, Result
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]
PACKAGE = "fixtures.forks.batched"
#: A batched buffer promises nothing ahead of need, and is told no prompt by argument.
NOT_OF_BATCHES = {"test_prefetch", "test_prompt_of_each_frame"}
#: Of what ranks send each other, where they do.
OF_SHARING = {"test_waits_for_handles", "test_same_collectives", "test_gathering_off"}
SCHEDULE = {name: check for name, check in CHECKS.items() if check.group == "schedule" and name not in NOT_OF_BATCHES}
PARITY = [name for name, check in CHECKS.items() if check.group == "parity"]
REQUIREMENTS = [name for name, check in SCHEDULE.items() if check.kind == REQUIREMENT]
HAZARDS = [name for name, check in SCHEDULE.items() if check.kind == HAZARD]
ON_THREADS = [bug for bug in BUGS.values() if bug.check in SCHEDULE]
ON_PROCESSES = [bug for bug in BUGS.values() if bug.check in PARITY]


def limited(frames: int, start: int, limit: int, reverse: bool = False, **others: Any) -> dict[str, Any]:
    """A case of a scan under a limit, as JSON."""
    visits = [
        {"frame": frame, "reverse": reverse, "limit": limit, "limit_from": start}
        for frame in visits_within(frames, start, limit, reverse)
    ]
    return {"frames": frames, "world_size": 1, "start": start, "reverse": reverse, "visits": visits, **others}


def jumps(frames: Iterable[int], **others: Any) -> dict[str, Any]:
    return {"frames": 12, "world_size": 1, "visits": [{"frame": frame} for frame in frames], **others}


def judged(name: str, check: str, launchers: Launchers, case: Mapping[str, Any]) -> Result:
    """Judge a fork of this package by one check in one case."""
    gate = Gate(Target(f"{PACKAGE}:{name}"), launchers, SEEDED, case=CHECKS[check].from_json(case))
    return gate.judge(CHECKS[check], THREADS)


def test_every_check_has_a_seeded_bug_that_it_catches() -> None:
    assert {bug.check for bug in BUGS.values()} == {*SCHEDULE, *PARITY}


def test_every_seeded_bug_says_what_it_is() -> None:
    for bug in BUGS.values():
        assert bug.check in CHECKS, bug.name
        assert bug.doc, bug.name


@pytest.mark.parametrize("bug", ON_THREADS, ids=lambda bug: bug.name)
def test_the_named_check_fails_for_the_stated_reason(bug, launchers: Launchers) -> None:  # type: ignore[no-untyped-def]
    assert_as_stated(bug, seeded_finding(bug, launchers, THREADS))


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("bug", ON_PROCESSES, ids=lambda bug: bug.name)
def test_the_named_parity_check_fails_for_the_stated_reason(bug, launchers: Launchers) -> None:  # type: ignore[no-untyped-def]
    finding = seeded_finding(bug, launchers, PROCESSES)
    assert re.search(bug.says, finding.message), finding.render()
    assert None not in (finding.rank, finding.call, finding.frame, finding.tensor), finding.render()


# Variants


def _passes(result: Result, shares: bool) -> None:
    allowed = (PASSED,) if shares or result.check not in OF_SHARING else (PASSED, NOT_APPLICABLE)
    assert result.outcome in allowed, result.finding.render() if result.finding else result


@pytest.mark.parametrize("name", VARIANTS)
def test_requirements_pass_on_threads(name: str, launchers: Launchers) -> None:
    for check in REQUIREMENTS:
        if name == "WithoutObjectIds" and check == "test_object_ids":
            continue
        target = Target(f"{PACKAGE}:{name}")
        if name == "WithBothBuffers":
            subject = f"{VARIANTS[name].__module__}:{name}:batched"
            result = Gate(replace(target, subject=subject), launchers, FEW).judge(CHECKS[check], THREADS)
        else:
            result = judge(target.spec, check, launchers, profile=FEW)
        _passes(result, shares=name == "AgreesWithRankZero")


@pytest.mark.parametrize("check", HAZARDS)
def test_a_buffer_can_be_free_of_hazards(check: str, launchers: Launchers) -> None:
    _passes(judge(f"{PACKAGE}:SteppedBatches", check, launchers), shares=False)


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize(
    ("name", "profile"),
    [("SteppedBatches", SEEDED), ("InSmallerBatches", FEW), ("SuppressesWhenRead", FEW), ("AgreesWithRankZero", FEW)],
)
def test_parity_passes_on_processes(name: str, profile: Profile, launchers: Launchers) -> None:
    for check in PARITY:
        _passes(judge(f"{PACKAGE}:{name}", check, launchers, PROCESSES, profile), shares=False)


# A stand-in for upstream


@pytest.mark.parametrize(
    ("check", "case", "says"),
    [
        ("test_limited_scan", limited(10, 0, 5, batch=4), "the answer for frame 5 is not that frame's own detection"),
        ("test_limited_scan", limited(10, 0, 5, batch=1), "call 5, frame 5: IndexError"),
        ("test_limit_past_the_end", limited(10, 0, 30, batch=4), "detects a frame outside the clip's 10"),
        (
            "test_limited_residency",
            limited(10, 9, 5, reverse=True, batch=4),
            "frames 8 of a chunk already left are still in the buffer",
        ),
        ("test_any_order_residency", jumps((0, 4, 8), batch=1), "the buffer holds more than two chunks of 1"),
    ],
)
def test_a_defect_of_upstream_is_found(check: str, case: dict[str, Any], says: str, launchers: Launchers) -> None:
    finding = judged("LikeUpstream", check, launchers, case).finding
    assert finding is not None
    assert re.search(says, finding.message), finding.render()


@pytest.mark.parametrize(
    "check",
    [*like_upstream.DEFECTS, *like_upstream.HAZARDS],
)
def test_defects_of_upstream_are_found_in_few_frames(check: str, launchers: Launchers) -> None:
    result = judge(f"{PACKAGE}:LikeUpstream", check, launchers, profile=PROFILES["quick"])
    assert result.outcome == FAILED
    assert result.finding is not None
    assert result.finding.case["frames"] <= 12, result.finding.render()


def test_upstream_fails_nothing_else(launchers: Launchers) -> None:
    for check in {*SCHEDULE} - {*like_upstream.DEFECTS, *like_upstream.HAZARDS}:
        _passes(judge(f"{PACKAGE}:LikeUpstream", check, launchers, profile=FEW), shares=False)
