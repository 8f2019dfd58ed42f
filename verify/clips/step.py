"""One training step of a target, and where it fails if it does."""

from __future__ import annotations

from dataclasses import dataclass

from fixtures.ranks.stacks import release_frames
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import backward, clip_loss, loss_of_target, model_of
from verify.engine.finding import Violation
from verify.engine.place import place_at
from verify.engine.raised import frames_outside_torch
from verify.target.naming import Target

#: What is known of a cause, by what it says: what to do about it.
REMEDIES = {
    "Expected grad to be disabled": "the layer runs a kernel for inference on detached weights. Compute it plainly "
    "where gradients are on, with the weights themselves (reference/recipe/differentiable_mlp.py does): taking the "
    "check away leaves the layer without gradient",
    "derivative for aten::_addmm_activation is not implemented": "the kernel is for inference, with no backward pass: "
    "compute the layer plainly where gradients are on (reference/recipe/differentiable_mlp.py does)",
    "matrix contains invalid numeric entries": "the matcher was given what is no number: something before it "
    "overflows, or divides by zero",
    "expected scalar type BFloat16 but found Float": "what autocast has rounded meets what it has not, where it is off "
    "or does not reach: cast both alike",
    "mat1 and mat2 must have the same dtype": "a kernel computes in bfloat16 whatever it is given: train under "
    "autocast, or compute the layer plainly (reference/recipe/differentiable_mlp.py does)",
}


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

    def violation(self, step: str) -> Violation:
        """Say that ``step`` does not run, why and where, and what is known to be done about it."""
        remedy = next((words for symptom, words in REMEDIES.items() if symptom in self.error), "")
        return Violation(
            f"{step} does not run: {self.what}: {self.error} ({self.file}, line {self.line}, in {self.function})"
            + (f"; {remedy}" if remedy else ""),
            frame=self.frame,
            expected="a loss, and its gradients",
            got=self.error,
            details=self.stack,
            place=place_at(self.file, self.line, self.function),
        )


def _step(target: Target, case: Training, one_by_one: bool) -> StepFailed | None:
    with sam3_on_cpu():
        model, batch, loss = model_of(target, case), batch_of(case), loss_of_target(target, case)
        try:
            backward(clip_loss(loss, model, batch, one_by_one), batch)
        except Violation as violation:
            return step_failed(violation)
    return None


def step_clip(rank: int, world_size: int, target: Target, case: Training) -> StepFailed | None:
    """Take a training step on a case's batch; None where it runs."""
    return _step(target, case, one_by_one=False)


def step_frame(rank: int, world_size: int, target: Target, case: Training) -> StepFailed | None:
    """Take a training step by sam3's one-frame forward, on a case's frames one by one; None where it runs."""
    return _step(target, case, one_by_one=True)


def step_failed(violation: Violation) -> StepFailed:
    """Read where and why a step failed off the violation that ``verify.clips.run`` made of it."""
    error = violation.__cause__
    assert error is not None
    # A mode for torch's functions, as on a CPU, passes on what the code calls.
    place = [frame for frame in frames_outside_torch(error) if frame.name != "__torch_function__"][-1]
    release_frames(violation)
    what = violation.message.partition(": ")[0]
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return StepFailed(what, words, place.filename, place.lineno or 0, place.name, violation.frame, violation.details)
