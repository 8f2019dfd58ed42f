"""Whether a training step runs at all: what all other checks of training rest on."""

from __future__ import annotations

from collections.abc import Callable

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.clips.step import StepFailed, step_clip
from verify.target.naming import Target
from verify.training.case import shortest_clip
from verify.training.group import training_check


@training_check(shortest_clip, observation=on_one_rank(step_clip), cost=1000, draws="a training step")
def test_step_runs(case: Training, observe: Callable[[Training], StepFailed | None], target: Target) -> None:
    """A training step runs on a clip of two frames: forward, loss and backward pass, on boxes, in full precision.

    Where it does not, nothing else about training can be told: the checks that rest on it are blocked by its cause.
    """
    failed = observe(case)
    if failed is not None:
        raise failed.violation("a training step on a clip")
