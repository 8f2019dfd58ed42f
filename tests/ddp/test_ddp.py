"""Each check of data-parallel training fails on the bug it is for, says so in its words, and passes what conforms."""

from __future__ import annotations

import re

import pytest
import torch

from fixtures.forks.bugs import Seeded
from fixtures.forks.ddp import BUGS, CONFORMING
from tests.judging import assert_caught
from verify.ddp.case import DataParallel, data_parallel_from_json
from verify.ddp.frames_of_step import apart, of_other_frames
from verify.engine.check import PROCESSES, THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import Profile
from verify.engine.result import NOT_APPLICABLE, PASSED, Result
from verify.groups import registered
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]

#: One run a check, as in profile quick, and no time for making a failing case smaller.
SEEDED = Profile("seeded", examples=25, process_examples=3, shrink_seconds=0.0)
CHECKS = [name for name, check in registered().items() if check.group == "ddp" and check.launchers == (PROCESSES,)]
GRADIENT, STEP = "test_gradient_through_buffer", "test_own_step"
#: What the posted recipe does wrong, with the loss that it configures.
POSTED = {
    "test_ddp_with_unused_masks": r"iteration 2: RuntimeError: Expected to have finished reduction.*segmentation_head",
    "test_ddp_uneven_clips": r"1 \(all_reduce\) on a clip of 1 frames, 2 \(all_reduce\) on a clip of 2.*normalization",
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # at toy width threads wait for each other longer than they work


def judge(target: Target, check: str, launchers: Launchers, launcher: str = PROCESSES) -> Result:
    """Judge by one check on two ranks: what goes wrong on more goes wrong on two."""
    return Gate(target, launchers, SEEDED, process_world_sizes=(2,)).judge(registered()[check], launcher)


@pytest.mark.xdist_group("ddp processes")
@pytest.mark.parametrize("bug", BUGS.values(), ids=list(BUGS))
def test_bug_is_caught(bug: Seeded, launchers: Launchers) -> None:
    launcher = registered()[bug.check].launchers[0]
    assert_caught(judge(Target(**bug.options), bug.check, launchers, launcher), bug.says)


@pytest.mark.xdist_group("ddp processes")
def test_global_normalisation_is_caught(launchers: Launchers) -> None:
    target = Target("reference", loss="reference.recipe.loss:recipe_loss")
    assert judge(target, "test_ddp_without_segmentation", launchers).outcome == PASSED
    finding = assert_caught(judge(target, "test_ddp_uneven_clips", launchers), POSTED["test_ddp_uneven_clips"])
    assert re.search(r"all_reduce\(.*, issued in iteration \d, on a clip of \d frames", finding.details), (
        finding.details
    )


@pytest.mark.xdist_group("ddp processes")
@pytest.mark.parametrize("variant", CONFORMING.values(), ids=list(CONFORMING))
def test_variant_passes(variant: Seeded, launchers: Launchers) -> None:
    for check in CHECKS:
        result = judge(Target(**variant.options), check, launchers)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result
    if "train_step" in variant.options:
        assert judge(Target(**variant.options), STEP, launchers, THREADS).outcome == PASSED


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ({"a": [3.0, 4.0]}, {"a": [3.0, 4.0]}, 0.0),
        ({"a": [3.0, 9.0]}, {"a": [3.0, 4.0]}, 1.0),
        ({"a": [1.0]}, {"a": [0.0]}, 1.0),
        ({"a": [1.0, 2.0], "b": [2.0]}, {"a": [1.0], "b": [1.0], "c": [1.0]}, 1.0),
    ],
)
def test_outputs_lie_apart_by_parts_of_what_they_are(one: dict, other: dict, distance: float) -> None:
    of = [{name: torch.tensor(values) for name, values in outputs.items()} for outputs in (one, other)]
    assert apart(*of) == pytest.approx(distance)


def test_of_frames_that_are_alike_none_is_taken_for_another() -> None:
    frames = [{"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0])}, {"a": torch.tensor([2.0])}]
    assert of_other_frames(frames, frames) == {}
    assert of_other_frames([frames[1], frames[1]], frames) == {0: 1}
    assert of_other_frames([{"a": torch.tensor([1.4])}], frames) == {}


def test_without_a_step_of_its_own_a_target_is_asked_nothing(launchers: Launchers) -> None:
    assert judge(Target("reference"), STEP, launchers, THREADS).outcome == NOT_APPLICABLE


@pytest.mark.xdist_group("ddp processes")
def test_posted_fails_where_it_is_known_to(launchers: Launchers) -> None:
    for check in CHECKS:
        result = judge(Target("posted"), check, launchers)
        if check in POSTED:
            assert_caught(result, POSTED[check])
        else:
            assert result.outcome == PASSED, result


@pytest.mark.parametrize("target", ["posted", "sam3", "fixtures.forks.buffer:SteppedBuffer"])
def test_gradient_that_depends_on_the_world_size_is_caught(target: str, launchers: Launchers) -> None:
    says = r"of frame 0 carries gradient with one rank and carries no gradient with \d"
    assert_caught(judge(Target(target), GRADIENT, launchers, THREADS), says)


def test_no_gradient_at_all_passes(launchers: Launchers) -> None:
    assert judge(Target("reference"), GRADIENT, launchers, THREADS).outcome == PASSED


CASES = [DataParallel(2), DataParallel(4, "masks", (1, 3), (2, 0), (0, 1), 2, 5, 9)]


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_read_as_it_was_written(case: DataParallel) -> None:
    assert data_parallel_from_json(case.as_json()) == case


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"world_size": 2, "colour": 1}, "unknown field 'colour'"),
        ({"frames": [2]}, "world_size"),
        ({"world_size": 2, "frames": [0, 2]}, "a clip has 1 to 8"),
        ({"world_size": 2, "frames": 3}, "not iterable"),
        ({"world_size": 2, "pairing": "points"}, "pairing is 'points'"),
        ({"world_size": 2, "iterations": 0}, "at least one"),
    ],
)
def test_a_case_that_is_none_is_refused(data: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        data_parallel_from_json(data)
