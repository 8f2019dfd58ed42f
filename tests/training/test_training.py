"""Every check of training on clips fails on the bug it is for, and passes on loops that do it in another way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import pytest
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

from fixtures.forks.training import VARIANTS
from verify.clips.case import Training
from verify.engine.check import HAZARD, THREADS
from verify.engine.finding import Finding
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES, Profile
from verify.engine.result import BLOCKED, FAILED, NOT_PROVIDED, PASSED, Result
from verify.groups import PRELOADED, registered
from verify.target.naming import Target

FORKS = "fixtures.forks.training:"
#: The cases of the profile *quick*; a violation is found in them and not made smaller.
DRAWN = Profile("drawn", examples=PROFILES["quick"].examples, process_examples=1, shrink_seconds=0)
STEP = "test_step_runs"
STAGES = "test_one_stage_per_frame"
OUTPUTS = "test_training_outputs"
INTERACTIVE = "test_interactive_evaluation"
KEPT = "test_nothing_kept"
AUTOCAST = "test_step_under_autocast"
DROPOUT = "test_dropout_as_trained"

#: Seeded bugs: the class, the check that must catch it, and what its finding says.
BUGS = [
    ("CrashesLater", STEP, r"does not run: the forward failed at frame 1: AttributeError.*outputs\.py, line \d+"),
    (
        "ForInferenceOnly",
        STEP,
        r"Expected grad to be disabled.*gradients\.py, line \d+, in .*\); the layer runs a kernel",
    ),
    ("WrongFrame", STAGES, r"stage 0 holds the outputs of frame 1"),
    ("RepeatedFrame", STAGES, r"stage 1 holds the outputs of frame 0"),
    ("LostLastFrame", STAGES, r"1 stages came back for a clip of 2 frames: frame 1 is missing"),
    ("MissingStage", STAGES, r"stages came back for a clip of \d frames: frame 1 is missing"),
    ("ReversedStages", STAGES, r"stage 0 holds the outputs of frame \d"),
    ("PlainList", STAGES, r"returns a list, where sam3's loss and trainer take a SAM3Output"),
    ("OtherIteration", STAGES, r"gives a list a stage, where the trainer takes"),
    ("CutClips", "test_any_clip_length", r"8 stages came back for a clip of \d+ frames: frame 8.* missing"),
    ("CrashesLater", OUTPUTS, r"the forward failed at frame 1: AttributeError.*no_such_field"),
    ("PromptsOfAnotherFrame", OUTPUTS, r"frame \d's outputs are not those of sam3's one-frame forward"),
    ("TargetsOfAnotherFrame", OUTPUTS, r"frame \d's outputs are not those(.|\n)*indices"),
    ("ReusedMatching", OUTPUTS, r"frame 1's outputs are not those(.|\n)*indices"),
    ("TextOfFirstQuery", OUTPUTS, r"frame \d's outputs are not those"),
    ("TextsOfFirstFrame", OUTPUTS, r"frame 1's outputs are not those"),
    ("IgnoredPadding", OUTPUTS, r"frame \d's outputs are not those"),
    ("NoAuxiliaryOutputs", OUTPUTS, r"frame 0's outputs lack aux_outputs\[0\]"),
    ("FirstFrameInEvaluation", "test_evaluation_outputs", r"stage 1 holds the outputs of frame 0"),
    ("NoBoxesInEvaluation", "test_evaluation_outputs", r"in evaluation frame \d's outputs are not those"),
    ("FrameNumberForImage", "test_two_clips_in_a_batch", r"in a batch of two clips frame 0's outputs"),
    ("StageNumberForImage", "test_permuted_frames", r"in the order .* stage 0 is not what that frame gives"),
    ("ChangedFeatures", "test_permuted_frames", r"in the order .* stage \d is not what that frame gives"),
    (
        "DetachedFeatures",
        "test_every_frame_contributes",
        r"no gradient of stage 0's .* the image of frame 0",
    ),
    ("GradientFromLastFrame", "test_every_frame_contributes", r"no gradient of stage 0's outputs"),
    ("DetachedText", "test_same_parameters_trained", r"parameters of backbone.language_backbone get no gradient"),
    (
        "WeakenedGradient",
        "test_clip_gradients",
        r"gradients of \d+ of \d+ parameters are not those of the",
    ),
    ("LeakingFeatures", "test_no_frame_leaks", r"stage \d's outputs depend on the image of frame \d"),
    ("LeakingGradient", "test_no_frame_leaks", r"stage 0's outputs depend on the image of frame 1"),
    (
        "ReusedMatching",
        "test_clip_loss",
        r"the loss of the clip is not that of its frames|cannot be",
    ),
    ("IgnoredBoxes", "test_box_prompts", r"another box in the prompt of query \d in frame \d changes nothing"),
    ("IgnoredLabels", "test_box_prompts", r"another label in the prompt of query \d in frame \d changes nothing"),
    ("BoxesOfFirstQuery", "test_box_prompts", r"another box in the prompt of query \d in frame \d changes"),
    ("UncheckedTargets", "test_missing_targets", r"fails with an error that does not say so"),
    ("SkippedTargets", "test_missing_targets", r"training without the targets of frame \d .* says nothing"),
    ("IgnoredSteps", INTERACTIVE, r"as the model is built, leaves steps out"),
    ("UncheckedSampler", INTERACTIVE, r"fails far from the cause: AttributeError"),
    ("StepsWithoutPrompts", INTERACTIVE, r"after an interactive step frame 0's outputs are not those"),
    ("NoMatchingInEvaluation", "test_validation_loss", r"the loss cannot be computed .* KeyError: 'indices'"),
    ("OneMatchingInEvaluation", "test_validation_loss", r"the validation loss of the clip is not that of its frames"),
    ("EncodesTwice", "test_encoded_once", r"the image backbone encoded frame 1 twice: 2, 1 images in calls 1-2"),
    ("EncodesForEachFrame", "test_encoded_once", r"the image backbone encoded frames 0, 1 three times: 2, 2, 2 images"),
    ("EncodesForEachFrame", "test_peak_memory", r"memory grows faster than the number of frames"),
    (
        "HalfPrecision",
        "test_training_precision",
        r"half precision on the way .* bfloat16 at .*training/cost\.py, line \d+",
    ),
    ("KeepsFeatures", KEPT, r"after another clip was trained on|the backward pass failed|still in memory"),
    ("KeepsOutputs", KEPT, r"tensors of a call's outputs are still in memory after the step"),
    ("KeepsHistory", KEPT, r"memory grows from step to step|still in memory"),
    ("CountsCalls", KEPT, r"frame 0's outputs are others after another clip was trained on"),
    ("ConsumesTexts", "test_batch_unchanged", r"batch.find_text_batch had \d entries and has 0"),
    ("ScalesBoxes", "test_batch_unchanged", r"batch.find_inputs\[0\].input_boxes holds other values"),
    ("UnseededNoise", "test_same_seed_same_result", r"run again under the same seed, frame 0 gives other outputs"),
    ("UnseededGradient", "test_same_seed_same_result", r"a training step gives other gradients of \d+ parameters"),
    (
        "CheckpointsLate",
        "test_activation_checkpointing",
        r"use_act_checkpoint_loop.* on, the gradient of",
    ),
    (
        "MultipliesByHand",
        AUTOCAST,
        r"a training step under autocast to bfloat16 does not run: the forward failed at frame 0: RuntimeError: "
        r"expected scalar type BFloat16 but found Float \(.*precision\.py, line \d+, in detect\); what autocast has",
    ),
    ("KeepsCastWeights", AUTOCAST, r"2 parameters of dot_prod_scoring\.prompt_proj get no gradient, and do in full"),
    ("ScalesInHalf", AUTOCAST, r"the forward failed at frame 0.* the matcher was given what is no number: something"),
    ("ScalesGradientInHalf", AUTOCAST, r"the gradients of \d+ parameters of .*backbone.* are not finite"),
    ("ScalesDownForGood", AUTOCAST, r"the loss under autocast to bfloat16 is further .* than rounding explains"),
    ("DropsByTheClock", DROPOUT, r"run again under the same seed gives another loss"),
    ("ForgetsRandomState", DROPOUT, r"does not keep the state that it was computed with\) gives other gradients"),
    ("ForgetsRandomStateWhereTold", DROPOUT, r"use_act_checkpoint_loop.* on gives other gradients"),
    ("DropsInEvaluation", DROPOUT, r"in evaluation frame 0's outputs depend on the seed"),
    ("Prints", "test_quiet", r"the forward prints: 2 frames"),
    ("SteppedLoop", "test_loss_scale", r"the loss of a clip of 2 equal frames is 2 times that of one frame"),
]

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
    "SamplesPrompts": False,
    "LeavesFramesOut": False,
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
    assert {check for _, check, _ in BUGS} == set(checks_of_training())


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
