"""Every check of gradients fails on the bugs it is for, and passes on detectors that do it in another way."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from fixtures.forks.bugs import Seeded
from fixtures.forks.gradients import BUGS, CONFORMING
from verify.engine.check import THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import Profile
from verify.engine.result import BLOCKED, FAILED, NOT_APPLICABLE, PASSED, Result
from verify.groups import PRELOADED, registered
from verify.target.naming import Target

#: It is about checkouts: ``test_released``.
RELEASED = "test_released_sam3"
CHECKS = [name for name, check in registered().items() if check.group == "gradients" and name != RELEASED]
BASE = "test_one_frame_step_runs"
#: As many cases as the gate draws by default; a violation is found in them and not made smaller.
DRAWN = Profile("drawn", examples=25, process_examples=1, shrink_seconds=0)
ONE = Profile("one", examples=2, process_examples=1, shrink_seconds=0)


@pytest.fixture(scope="module")
def launchers() -> Iterator[Launchers]:
    torch.set_num_threads(1)  # as in the gate: at toy width threads wait for each other longer than they work
    made = Launchers(preload=PRELOADED)
    yield made
    made.close()


def judge(launchers: Launchers, options: dict[str, str], check: str, profile: Profile = DRAWN) -> Result:
    return Gate(Target(**options), launchers, profile, bases=registered()).judge(registered()[check], THREADS)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_seeded_bug_is_caught_by_the_check_that_is_for_it(launchers: Launchers, bug: Seeded) -> None:
    result = judge(launchers, dict(bug.options), bug.check)
    assert result.outcome == FAILED, result
    assert result.finding is not None
    text = result.finding.render()
    assert re.search(bug.says, result.finding.message), text
    assert result.finding.place is not None, text
    if "the forward that uses" in result.finding.details:  # of the module at fault
        assert result.finding.details.startswith(f"{result.finding.place}: the forward that uses"), text


@pytest.mark.parametrize("variant", CONFORMING.values(), ids=CONFORMING)
def test_detectors_that_do_it_otherwise_pass(launchers: Launchers, variant: Seeded) -> None:
    for check in CHECKS:
        result = judge(launchers, dict(variant.options), check, ONE)
        expected = NOT_APPLICABLE if check == BASE else PASSED
        assert result.outcome == expected, result.finding.render() if result.finding else result


def test_gradients_of_single_frames_are_looked_at_where_there_is_no_other_forward(launchers: Launchers) -> None:
    for check in CHECKS:
        result = judge(launchers, {"spec": "sam3"}, check, ONE)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result


@pytest.mark.parametrize(
    ("spec", "base"),
    [
        ("fixtures.forks.training:ForInferenceOnly", "test_step_runs"),
        ("fixtures.forks.gradients:MlpsForInference", BASE),
    ],
)
def test_without_a_step_there_are_no_gradients_to_look_at(launchers: Launchers, spec: str, base: str) -> None:
    for check in set(CHECKS) - {BASE}:
        result = judge(launchers, {"spec": spec}, check)
        assert (result.outcome, result.blocked_by) == (BLOCKED, base), result


def test_every_check_of_gradients_has_a_bug() -> None:
    assert {bug.check for bug in BUGS.values()} == set(CHECKS)
