"""Each check of builders fails on the bug it is for, says so in its words, and passes on builders that conform."""

from __future__ import annotations

import re

import pytest
import torch

from fixtures.forks.bugs import Seeded
from fixtures.forks.builder import BUGS, CONFORMING
from tests.judging import assert_caught
from verify.builder.case import Build, build_from_json
from verify.builder.effects import EFFECTS
from verify.engine.check import THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import Profile
from verify.engine.result import FAILED, NOT_PROVIDED, PASSED, SKIPPED, Result
from verify.groups import registered
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]

#: As many cases as the gate draws by default, and no time for making a failing one smaller.
SEEDED = Profile("seeded", examples=25, process_examples=3, shrink_seconds=0.0)
CHECKS = [name for name, check in registered().items() if check.group == "builder"]
#: What the posted recipe's builder does wrong.
POSTED = {
    "test_autocast_with_predictor": "building a model with an interactive predictor changes what torch keeps",
    "test_initialised": r"never initialised.*positional_embedding.*text_projection",
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # at toy width threads wait for each other longer than they work


def judge(target: Target, check: str, launchers: Launchers, case: Build | None = None) -> Result:
    return Gate(target, launchers, SEEDED, case=case).judge(registered()[check], THREADS)


@pytest.mark.parametrize("bug", BUGS.values(), ids=list(BUGS))
def test_bug_is_caught(bug: Seeded, launchers: Launchers) -> None:
    # One argument is looked at: that all of them are, the posted recipe shows.
    argument = next((name for name in EFFECTS if name in bug.says), None)
    case = Build(subject=argument) if bug.check == "test_arguments" and argument else None
    result = judge(Target(**bug.options), bug.check, launchers, case)
    assert_caught(result, bug.says)


#: What freezes weights on purpose: whether those that it is meant to, cannot be told.
FREEZE = ("adapted", "adapted_with_dropout", "freezes_the_text")


@pytest.mark.parametrize("variant", CONFORMING.values(), ids=list(CONFORMING))
def test_variant_passes(variant: Seeded, launchers: Launchers) -> None:
    checks = [check for check in CHECKS if check != "test_arguments" or variant.name == "fewer_arguments"]
    results = [judge(Target(**variant.options), check, launchers) for check in checks]
    untold = ["test_gradients_on"] if variant.name in FREEZE else []
    assert [result.check for result in results if result.outcome == SKIPPED] == untold
    assert [result for result in results if result.outcome not in (PASSED, NOT_PROVIDED, SKIPPED)] == []
    assert sum(result.outcome == PASSED for result in results) >= 5


def test_a_wrapper_that_hands_calls_of_the_buffer_on_is_judged_by_what_is_inside(launchers: Launchers) -> None:
    result = judge(Target("sam3", builder="fixtures.forks.builder:hands_on"), "test_coverage", launchers)
    assert result.outcome == PASSED, result


def test_posted_fails_where_it_is_known_to(launchers: Launchers) -> None:
    for check in CHECKS:
        result = judge(Target("posted"), check, launchers)
        assert result.outcome == (FAILED if check in POSTED else PASSED), result
        if check == "test_arguments":
            assert result.cases == len(EFFECTS)
        if result.finding is not None:
            assert re.search(POSTED[check], result.finding.message), result.finding.render()


def test_a_class_alone_has_no_builder_to_verify(launchers: Launchers) -> None:
    target = Target("reference.recipe.model:Sam3ImageOnVideo")
    assert {judge(target, check, launchers).outcome for check in CHECKS} == {NOT_PROVIDED}


@pytest.mark.parametrize("case", [Build(), Build("bpe_path"), Build("no prefix", False, True, True, seed=3)])
def test_a_case_is_read_as_it_was_written(case: Build) -> None:
    assert build_from_json(case.as_json()) == case


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"frames": 2}, "unknown field 'frames'"),
        ({"seed": True}, "seed is True: expected a int"),
        ({"subject": "colour"}, "subject is 'colour'"),
    ],
)
def test_a_case_that_is_none_is_refused(data: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_from_json(data)
