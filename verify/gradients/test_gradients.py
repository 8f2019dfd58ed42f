"""Whether autograd's gradients are the derivative of the loss, by differences of the loss itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.clips.step import StepFailed, step_frame
from verify.engine.check import HAZARD
from verify.engine.finding import NotCovered, Violation
from verify.gradients.agreement import assert_as_released, assert_derivative, assert_no_gradient_lost
from verify.gradients.case import any_batches, one_frame, short_clip
from verify.gradients.group import can_be_differentiated, differentiated, gradients_check, why_over_frames
from verify.gradients.observation import Differentiated
from verify.gradients.optimizer import Optimized, optimize
from verify.gradients.pictures import derivative_pictures, optimizer_pictures, shows
from verify.gradients.released import compare, why_no_release
from verify.target.naming import Target

Observe = Callable[[Training], Any]


@gradients_check(
    one_frame,
    observation=on_one_rank(step_frame),
    cost=1000,
    draws="a training step on a frame",
    why_not_applicable=why_over_frames,
    rests_on=(),
)
def test_one_frame_step_runs(case: Training, observe: Observe, target: Target) -> None:
    """A training step runs by sam3's one-frame forward, where there is none over frames: loss and backward pass.

    Where it does not, there are no gradients to look at: the checks that rest on it are blocked by its cause.
    """
    failed: StepFailed | None = observe(case)
    if failed is not None:
        raise failed.violation("a training step on a single frame")


def _decided(seen: Differentiated, undecided: tuple[str, ...]) -> bool:
    """Whether there was anything to tell, and it was told.

    Raises:
        NotCovered: where the loss is too rough to be differentiated along some parameters.
    """
    if undecided:
        count = f"{len(undecided)} of {seen.compared}"
        raise NotCovered(
            f"differences of the loss do not settle for {count} parameters, among them {undecided[0]}: it has "
            f"kinks or jumps there, or is computed too coarsely ({seen.precision})"
        )
    return seen.compared > 0


@gradients_check(
    any_batches, observation=differentiated, tells_all_the_same=can_be_differentiated, pictures=derivative_pictures
)
def test_gradient_is_the_derivative(case: Training, observe: Observe, target: Target) -> bool:
    """Autograd's gradient of every parameter is the derivative of the loss: what the loss itself moves by says so.

    The loss is computed with parameters moved a little to both sides, matching and stopped gradients of sam3's own held
    fixed. A layer with a wrong backward pass, a gradient weakened, scaled or cut on the way leaves outputs and
    loss as they are, and trains something else. A loop that is compared with the one-frame forward has it as well.
    """
    seen: Differentiated = observe(case)
    assert_derivative(seen)
    return _decided(seen, seen.undecided[1])


@gradients_check(
    any_batches,
    observation=differentiated,
    tells_all_the_same=can_be_differentiated,
    pictures=derivative_pictures,
    shows=shows,
)
def test_every_moving_parameter_has_a_gradient(case: Training, observe: Observe, target: Target) -> bool:
    """A parameter without a gradient is frozen, or the loss does not move with it.

    A layer on detached weights, or an encoder run without gradients, stays as it was at the start of training, and all
    else is trained around it. Whoever wants it frozen says so, by ``requires_grad``.
    """
    seen: Differentiated = observe(case)
    assert_no_gradient_lost(seen)
    return _decided(seen, seen.undecided[0])


@gradients_check(
    short_clip,
    observation=on_one_rank(optimize),
    cost=1000,
    draws="a step of an optimizer",
    pictures=optimizer_pictures,
)
def test_optimizer_changes_what_is_trained(case: Training, observe: Observe, target: Target) -> bool:
    """A step of an optimizer made before the forward changes the parameters that get gradients, each by its own.

    A parameter that the forward makes anew, or a tensor that no module has as its parameter, gets gradients that no
    optimizer sees. Two parameters over the same memory are both changed by each one's step.
    """
    seen: Optimized = observe(case)
    if seen.overlapping:
        one, other = seen.overlapping[0]
        raise Violation(
            f"{one} and {other} are two parameters over the same memory: a step on one changes the other",
            tensor=one,
            expected="memory of its own for each, or a single parameter that both modules share",
            got="the same memory",
            details="\n".join(" and ".join(pair) for pair in seen.overlapping),
        )
    if seen.unregistered:
        raise Violation(
            f"{seen.unregistered[0]} gets a gradient and is no parameter of the model: no optimizer trains it",
            tensor=seen.unregistered[0],
            expected="a parameter of a module",
            got="a tensor beside them",
            details="\n".join(seen.unregistered),
        )
    still = [name for name in seen.trained if name not in seen.changed]
    if still:
        why = "the forward puts another in its place" if still[0] in seen.replaced else "it stays as it was"
        raise Violation(
            f"{still[0]} gets a gradient, and a step of an optimizer made before does not change it: {why}",
            tensor=still[0],
            expected=f"{len(seen.trained)} parameters changed",
            got=f"{len(seen.trained) - len(still)}",
            details="\n".join(still),
        )
    return bool(seen.trained)


@gradients_check(
    short_clip,
    observation=on_one_rank(compare),
    cost=1000,
    draws="a clip under the same weights",
    why_not_applicable=why_no_release,
    kind=HAZARD,
)
def test_released_sam3(case: Training, observe: Observe, target: Target) -> None:
    """A frame alone gives the outputs and the gradients that the released sam3 gives under the same weights.

    What a fork has changed in the detector itself no comparison of clips with single frames can see. Who changed it on
    purpose finds here what that changes; who did not finds the first output or parameter that is off.
    """
    assert_as_released(observe(case))
