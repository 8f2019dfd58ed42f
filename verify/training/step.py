"""One training step of a target, and where it fails if it does."""

from __future__ import annotations

from dataclasses import dataclass

from fixtures.ranks.stacks import release_frames
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import backward, call, loss_of_target, loss_value, model_of
from verify.engine.finding import Violation
from verify.engine.raised import frames_outside_torch
from verify.target.naming import Target


@dataclass(frozen=True)
class StepFailed:
    """Where and why a training step failed: the innermost line of code that is not torch's."""

    #: Which part of the step, in words.
    what: str
    error: str
    file: str
    line: int
    function: str
    frame: int | None
    stack: str


def step_clip(rank: int, world_size: int, target: Target, case: Training) -> StepFailed | None:
    """Take a training step on a case's batch; None where it runs."""
    with sam3_on_cpu():
        model, batch, loss = model_of(target, case), batch_of(case), loss_of_target(target, case)
        try:
            backward(loss_value(loss, call(model, batch), model, batch), batch)
        except Violation as violation:
            error = violation.__cause__
            assert error is not None
            place = frames_outside_torch(error)[-1]
            release_frames(violation)
            what = violation.message.partition(": ")[0]
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return StepFailed(
                what, words, place.filename, place.lineno or 0, place.name, violation.frame, violation.details
            )
    return None
