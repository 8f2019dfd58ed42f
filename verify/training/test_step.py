"""Whether a training step runs at all: what all other checks of training rest on."""

from __future__ import annotations

from collections.abc import Callable

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.training.case import shortest_clip
from verify.training.group import training_check
from verify.training.step import StepFailed, step_clip

#: What is known of a cause, by what it says: what to do about it.
REMEDIES = {
    "Expected grad to be disabled": "the layer runs a kernel for inference on detached weights. Compute it plainly "
    "where gradients are on, with the weights themselves (reference/recipe/differentiable_mlp.py does): taking the "
    "check away leaves the layer without gradient",
    "mat1 and mat2 must have the same dtype": "a kernel computes in bfloat16 whatever it is given: train under "
    "autocast, or compute the layer plainly (reference/recipe/differentiable_mlp.py does)",
}


@training_check(shortest_clip, observation=on_one_rank(step_clip), cost=1000, draws="a training step")
def test_step_runs(case: Training, observe: Callable[[Training], StepFailed | None], target: Target) -> None:
    """A training step runs on a clip of two frames: forward, loss and backward pass, on boxes, in full precision.

    Where it does not, nothing else about training can be told: the checks that rest on it are blocked by its cause.
    """
    failed = observe(case)
    if failed is None:
        return
    remedy = next((words for symptom, words in REMEDIES.items() if symptom in failed.error), "")
    raise Violation(
        f"a training step on a clip does not run: {failed.what}: {failed.error} ({failed.file}, line {failed.line}, in "
        f"{failed.function})" + (f"; {remedy}" if remedy else ""),
        frame=failed.frame,
        expected="a loss, and its gradients",
        got=failed.error,
        details=failed.stack,
    )
