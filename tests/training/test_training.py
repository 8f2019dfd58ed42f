"""Every check of training on clips fails on the bug it is for, and passes on loops that do it in another way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import pytest
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

from fixtures.forks.bugs import Seeded
from fixtures.forks.training import VARIANTS, SteppedLoop
from fixtures.forks.training.bugs import BETWEEN, BUGS, KEPT, LEAVES, STAGES, STEP
from fixtures.forks.training.losses import CONFORMING as OTHER_LOSSES
from fixtures.forks.training.losses import COUNTS, LOSSES
from verify.clips.case import Training
from verify.engine.check import HAZARD, THREADS
from verify.engine.finding import Finding
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES, Profile
from verify.engine.result import BLOCKED, FAILED, NOT_PROVIDED, PASSED, SKIPPED, Result
from verify.groups import PRELOADED, registered
from verify.target.naming import Target

FORKS = "fixtures.forks.training:"
#: The cases of the profile *quick*; a violation is found in them and not made smaller.
DRAWN = Profile("drawn", examples=PROFILES["quick"].examples, process_examples=1, shrink_seconds=0)

#: Loops that conform, and whether they are judged by all checks, or by those that look at what they do otherwise.
CONFORMING = {
    "SteppedLoop": True,
    "TextFirst": False,
    "EncodesOnDemand": True,
    "LastFrameFirst": False,
    "EncodesInTwoCalls": False,
    "ListsFeatures": False,
    "MoreOutputs": False,
    "CheckpointsFrames": True,
    "HasAHookAndALock": False,
    "SamplesPrompts": False,
    "LeavesFramesOut": False,
    "KeepsTextsWhileEvaluated": False,
}
#: Checks whose observation is long, and which features encoded or listed otherwise have nothing to do with.
LONG = {KEPT, "test_activation_checkpointing", "test_training_precision", "test_any_clip_length"}
CLIPS = (
    Training(frames=2, prompts=2, boxes=1),
    Training(frames=2, clips=2, boxes=1, masks=True, segmentation=True),
)


@pytest.fixture(scope="module")
def launchers() -> Iterator[Launchers]:
    made = Launchers(preload=PRELOADED)
    yield made
    made.close()


def judge(launchers: Launchers, name: str, check: str, case: Training | None = None, spec: str = FORKS) -> Result:
    return Gate(Target(spec + name), launchers, DRAWN, case=case).judge(registered()[check], THREADS)


@lru_cache
def checks_of_training() -> tuple[str, ...]:
    return tuple(name for name, check in registered().items() if check.group == "training")


@pytest.mark.parametrize(("name", "check", "says"), BUGS, ids=[f"{bug[0]}-{bug[1]}" for bug in BUGS])
def test_a_seeded_bug_is_caught_by_the_check_that_is_for_it(
    launchers: Launchers, name: str, check: str, says: str
) -> None:
    result = judge(launchers, name, check)
    assert result.outcome == FAILED, result
    assert isinstance(result.finding, Finding)
    text = result.finding.render()
    assert re.search(says, text), text
    assert f"--target {FORKS}{name} --only {check}" in result.finding.replay


@pytest.mark.parametrize("bug", LOSSES.values(), ids=list(LOSSES))
def test_a_seeded_loss_is_caught_by_the_check_that_is_for_it(launchers: Launchers, bug: Seeded) -> None:
    result = Gate(Target(**bug.options), launchers, DRAWN).judge(registered()[bug.check], THREADS)
    assert result.outcome == FAILED, result
    assert isinstance(result.finding, Finding)
    text = result.finding.render()
    assert re.search(bug.says, text), text
    assert f"--loss {bug.options['loss']} --only {bug.check}" in result.finding.replay
    assert result.finding.place is not None
    assert result.finding.place.path.endswith("fixtures/forks/training/losses.py")


@pytest.mark.parametrize("variant", OTHER_LOSSES.values(), ids=list(OTHER_LOSSES))
def test_losses_that_do_it_otherwise_pass(launchers: Launchers, variant: Seeded) -> None:
    for case in (None, Training(frames=4, objects=3, prompts=2, masks=True, segmentation=True, seed=2)):
        result = Gate(Target(**variant.options), launchers, DRAWN, case=case).judge(registered()[COUNTS], THREADS)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result


@pytest.mark.parametrize("check", ["test_permuted_frames", "test_nothing_kept", "test_dropout_as_trained"])
def test_a_part_that_sets_its_own_rate_of_dropout_passes(launchers: Launchers, check: str) -> None:
    target = Target("reference", builder="fixtures.forks.builder:adapted_with_dropout")
    result = Gate(target, launchers, DRAWN).judge(registered()[check], THREADS)
    assert result.outcome == PASSED, result.finding.render() if result.finding else result


@pytest.mark.parametrize("name", CONFORMING)
def test_loops_that_do_it_otherwise_pass(launchers: Launchers, name: str) -> None:
    case = CLIPS[list(CONFORMING).index(name) % 2]
    for check in checks_of_training():
        if registered()[check].kind == HAZARD or (check in LONG and not CONFORMING[name]):
            continue
        result = judge(launchers, name, check, case)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result


def test_every_loop_that_conforms_is_tried() -> None:
    assert set(CONFORMING) == {loop.__name__ for loop in VARIANTS}


def test_every_check_of_training_has_a_bug() -> None:
    caught = {check for _, check, _ in BUGS} | {bug.check for bug in LOSSES.values()}
    assert caught == set(checks_of_training())


@pytest.mark.parametrize("check", [STAGES, "test_quiet"])
def test_a_forward_for_one_frame_is_not_provided(launchers: Launchers, check: str) -> None:
    result = judge(launchers, "sam3", check, spec="")
    assert result.outcome == NOT_PROVIDED
    assert "takes a single one: assert num_frames == 1" in result.reason


class FailsWithOneFrame(Sam3ImageOnVideoMultiGPU):
    """A forward that takes a single frame, and fails there: it is no forward over several that was broken."""

    def _run_segmentation_heads(self, **given: object) -> None:
        raise KeyError("id_mapping")


def test_a_forward_for_one_frame_that_fails_there_is_not_provided_and_said_to_fail(launchers: Launchers) -> None:
    result = judge(launchers, "FailsWithOneFrame", "test_step_runs", spec=f"{__name__}:")
    assert result.outcome == NOT_PROVIDED
    assert re.search(
        r"takes a single one: assert num_frames == 1 .*; and with a single one it fails: KeyError: 'id_mapping' "
        rf"\({__file__}, line \d+\)",
        result.reason,
    )


def test_what_rests_on_a_failing_step_is_blocked_by_it(launchers: Launchers) -> None:
    gate = Gate(Target(f"{FORKS}ForInferenceOnly"), launchers, DRAWN, bases=registered())
    for check in ("test_clip_loss", "test_quiet", "test_ddp_gradients"):
        result = gate.judge(registered()[check], registered()[check].launchers[0])
        assert (result.outcome, result.blocked_by) == (BLOCKED, STEP), result
        assert "rests on test_step_runs, which fails: a training step on a clip does not run" in result.reason
    assert gate.judge(registered()[STEP], THREADS).outcome == FAILED
    assert gate.judge(registered()["test_builds_for_clips"], THREADS).outcome == NOT_PROVIDED


class FailsInEvaluation(SteppedLoop):
    """Runs in training alone."""

    def frames(self, batch: Any) -> Iterable[int]:
        if not self.training:
            raise RuntimeError("for training alone")
        return super().frames(batch)


@pytest.mark.parametrize("check", [LEAVES, BETWEEN, "test_modules_keep_their_mode", "test_evaluation_without_targets"])
def test_what_an_evaluation_that_fails_leaves_is_not_covered(launchers: Launchers, check: str) -> None:
    result = judge(launchers, "FailsInEvaluation", check, spec=f"{__name__}:")
    assert result.outcome == SKIPPED, result
    assert "RuntimeError: for training alone" in result.reason
