"""Training on clips under other settings: missing targets, interactive steps, checkpointing, full precision."""

from __future__ import annotations

import re

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.check import HAZARD
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.tolerance import rounding
from verify.training.agreement import assert_same_outputs
from verify.training.case import any_clips, short_clips
from verify.training.cost import Precision, watch_precision
from verify.training.group import Observe, training_check
from verify.training.settings import (
    INTERACTIVE_STEPS,
    Answer,
    Checkpointed,
    Interactive,
    Unlabelled,
    WithoutTargets,
    checkpoint_clip,
    evaluate_interactively,
    evaluate_without_targets,
    withhold_targets,
)


def _names(answer: Answer, frame: int) -> bool:
    """Whether an error speaks of targets and names a frame."""
    text = answer.error or ""
    return bool(re.search(r"target", text, re.IGNORECASE) and re.search(rf"(?<!\d){frame}(?!\d)", text))


@training_check(any_clips, observation=on_one_rank(withhold_targets))
def test_missing_targets(case: Training, observe: Observe, target: Target) -> None:
    """Training on a clip that lacks the targets of a frame ends in an error that names the frame and its targets.

    A loader that drops a frame's annotations is found at once by such an error, and not at all by one about an
    attribute of None deep inside the matcher. Targets may also be left out by saying so: in the output's loss_stages.
    """
    seen: Unlabelled = observe(case)
    for what, answer in seen.answers.items():
        left_out = answer.loss_stages is not None and seen.frame not in answer.loss_stages
        if left_out or (answer.error is not None and _names(answer, seen.frame)):
            continue
        error_text = f"{answer.kinds[0]}: {answer.error}" if answer.error is not None else "no error"
        raise Violation(
            f"training without the targets of frame {seen.frame} ({what}) "
            + ("says nothing" if answer.error is None else "fails with an error that does not say so"),
            frame=seen.frame,
            expected=f"an error that says that the targets of frame {seen.frame} are missing",
            got=error_text,
            details=answer.details,
        )


#: What Python raises by itself: that something is missing is then an accident, not an answer.
_ACCIDENTS = frozenset({"AttributeError", "TypeError", "LookupError", "NameError"})


def _explained(answer: Answer) -> bool:
    """Whether an error was raised on purpose and says what interactive evaluation lacks."""
    text = answer.error or ""
    return not _ACCIDENTS & set(answer.kinds) and bool(re.search(r"interactive|sampler", text, re.IGNORECASE))


@training_check(short_clips, observation=on_one_rank(evaluate_interactively), cost=12, draws="training on two frames")
def test_interactive_evaluation(case: Training, observe: Observe, target: Target) -> None:
    """Evaluation with interactive steps gives a step's outputs for each, or an error that says what is missing.

    With ``num_interactive_steps_val`` set to 3: first with the model as it is built, then with an
    ``interactive_prompt_sampler``, which is given the prompts and the outputs of the step before, and the frame's own
    targets. Steps that are silently left out make an interactive validation measure nothing.
    """
    seen: Interactive = observe(case)
    asked = f"evaluation with {INTERACTIVE_STEPS} interactive steps"
    for what, answer in (("as the model is built", seen.bare), ("with a sampler of prompts", seen.sampled)):
        if answer.error is not None:
            if _explained(answer):
                continue
            raise Violation(
                f"{asked}, {what}, fails far from the cause: {answer.kinds[0]}: {answer.error}",
                expected=f"{INTERACTIVE_STEPS + 1} steps a frame, or an error that says what is missing",
                got=f"{answer.kinds[0]}: {answer.error}",
                details=answer.details,
            )
        steps = [len(stage) for stage in answer.outputs]
        if steps != [INTERACTIVE_STEPS + 1] * case.frames:
            raise Violation(
                f"{asked}, {what}, leaves steps out",
                expected=f"{INTERACTIVE_STEPS + 1} steps for each of {case.frames} frames",
                got=f"{', '.join(map(str, steps)) or 'no'} steps",
            )
    if seen.sampled.error is None:
        message = "after interactive steps frame {frame}'s outputs are not those of sam3's one-frame forward"
        assert_same_outputs(message, seen.expected, seen.sampled.outputs, seen.tolerances)


@training_check(
    short_clips, observation=on_one_rank(evaluate_without_targets), draws="training on two frames", kind=HAZARD
)
def test_evaluation_without_targets(case: Training, observe: Observe, target: Target) -> None:
    """Evaluation needs no targets: a clip without them gives the same outputs.

    With None for the targets of every frame, as sam3's one-frame forward takes them in evaluation. A model that asks
    for them there cannot be run on a video that nobody has annotated.
    """
    seen: WithoutTargets = observe(case)
    if seen.answer.error is not None:
        where = "" if seen.answer.frame is None else f" at frame {seen.answer.frame}"
        raise Violation(
            f"in evaluation without targets the forward failed{where}: {seen.answer.kinds[0]}: {seen.answer.error}",
            frame=seen.answer.frame,
            expected=f"outputs for each of {case.frames} frames",
            got=f"{seen.answer.kinds[0]}: {seen.answer.error}",
            details=seen.answer.details,
        )
    exact: dict[str, float] = {}
    message = "in evaluation frame {frame}'s outputs are others without targets than with them"
    assert_same_outputs(message, seen.labelled, seen.answer.outputs, exact)


@training_check(short_clips, observation=on_one_rank(watch_precision), cost=12, draws="training on two frames")
def test_training_precision(case: Training, observe: Observe, target: Target) -> None:
    """Without autocast a float32 model computes in full precision wherever sam3's one-frame forward does.

    Precision is the trainer's choice (its AMP settings). Features rounded on the way cost accuracy that no setting
    brings back.
    """
    seen: Precision = observe(case)
    extra = {place: what for place, what in seen.places.items() if place not in seen.expected}
    if extra or seen.outputs:
        place, what = next(iter(extra.items()), ("the outputs", seen.outputs[0] if seen.outputs else ""))
        raise Violation(
            f"half precision on the way of a float32 model: {what} at {place}",
            tensor=seen.outputs[0] if seen.outputs else None,
            expected="float32 throughout",
            got=what,
            details="\n".join(f"{where}: {what}" for where, what in extra.items()),
        )


@training_check(short_clips, observation=on_one_rank(checkpoint_clip), cost=12, draws="training on two frames")
def test_activation_checkpointing(case: Training, observe: Observe, target: Target) -> bool:
    """Activation checkpointing, on or off, changes neither outputs nor loss nor gradients.

    It computes parts of the forward again during the backward pass, from what the loop left of its state: features
    changed or dropped between frames come out as other gradients then.
    """
    seen: Checkpointed = observe(case)
    for what, step in seen.others.items():
        if isinstance(step, Violation):
            raise Violation(f"with {what}, {step.message}", frame=step.frame, got=step.got, details=step.details)
        # What is discrete has to be equal.
        allowed: dict[str, float] = {}
        for name, value in (item for steps in seen.plain for out in steps for item in out.items()):
            largest = float(value.abs().max()) if value.is_floating_point() and value.numel() else 0.0
            allowed[name] = max(allowed.get(name, 0.0), rounding(largest))
        message = f"with {what}, frame {{frame}}'s outputs are others"
        assert_same_outputs(message, seen.plain, step.outputs, allowed)
        for name, right, got in step.gradients:
            raise Violation(f"with {what}, the gradient of {name} is another", tensor=name, expected=right, got=got)
    return bool(seen.others)
