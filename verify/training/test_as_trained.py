"""Training as it is configured: under autocast, and with dropout and drop path, which other checks have off."""

from __future__ import annotations

import math

from verify.clips.case import Training
from verify.clips.forward import why_no_clip_forward
from verify.clips.observe import on_one_rank
from verify.configuration.precision import why_no_autocast
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.tensors.tolerance import rounding
from verify.training.agreement import assert_same_outputs, parts
from verify.training.autocast import Parameters, UnderAutocast, train_under_autocast
from verify.training.case import short_clips
from verify.training.dropout import Compared, WithDropout, train_with_dropout
from verify.training.group import Observe, training_check


def _assert_same_parameters(found: Parameters) -> None:
    """Gradients are numbers, and of the parameters that have them in full precision."""
    if names := found.not_finite:
        raise Violation(
            f"under autocast the gradients of {len(names)} parameters of {parts(names)} are not finite",
            tensor=names[0],
            expected="numbers",
            got="infinity or NaN",
            details="\n".join(names[:40]),
        )
    if names := found.lost or found.extra:
        lost = bool(found.lost)
        raise Violation(
            f"under autocast {len(names)} parameters of {parts(names)} get "
            + (
                "no gradient, and do in full precision. Weights that are cast under no_grad and kept, as autocast's "
                "cache does in some releases of torch, carry none"
                if lost
                else "gradient, and do not in full precision"
            ),
            tensor=names[0],
            expected="gradient" if lost else "no gradient",
            got="no gradient, or nothing but zeros" if lost else "gradient",
            details="\n".join(names[:40]),
        )


@training_check(
    short_clips,
    observation=on_one_rank(train_under_autocast),
    why_not_provided=lambda target: why_no_clip_forward(target) or why_no_autocast(target),
    cost=12,
    draws="training on two frames",
)
def test_step_under_autocast(case: Training, observe: Observe, target: Target) -> None:
    """A training step under autocast runs, and trains the same parameters on the same loss, up to its rounding.

    In the precision that the configuration sets (trainer.optim.amp), in bfloat16 where there is none. The recipe trains
    so. What runs in full precision may fail there, overflow, or train on weights that autocast has kept without
    gradient. The loss, and the norm of each part's gradient, are compared with those of the frames one by one under the
    same autocast.
    """
    seen: UnderAutocast = observe(case)
    name = str(seen.precision).removeprefix("torch.")
    if seen.failed is not None:
        raise seen.failed.violation(f"a training step under autocast to {name}")
    if seen.oracle_failed is not None:
        raise NotCovered(f"sam3's one-frame step does not run under autocast to {name}: {seen.oracle_failed.error}")
    if not math.isfinite(seen.loss):
        raise Violation(
            f"the loss under autocast to {name} is {seen.loss}",
            tensor="loss",
            expected=f"{seen.expected_loss:.6g}, from the {case.frames} frames one by one",
            got=seen.loss,
        )
    assert seen.parameters is not None
    _assert_same_parameters(seen.parameters)
    if abs(seen.loss - seen.expected_loss) > seen.loss_tolerance:
        raise Violation(
            f"the loss under autocast to {name} is further from that of the frames one by one than rounding explains",
            tensor="loss",
            expected=f"{seen.expected_loss:.6g} ± {seen.loss_tolerance:.2g}, from {len(seen.moved_losses)} runs with "
            f"each pixel moved by one step of {name}",
            got=f"{seen.loss:.6g}",
        )
    for other in seen.norms:
        raise Violation(
            f"the gradient of {other.part} under autocast to {name} is "
            f"{'larger' if other.got > other.expected else 'smaller'} than that of the frames one by one",
            tensor=other.part,
            expected=f"a norm of {other.expected:.4g} ± {other.tolerance:.2g}",
            got=f"{other.got:.4g}",
        )


def _assert_equal(found: Compared, message: str) -> None:
    if found.loss_differs:
        raise Violation(
            f"{message} gives another loss",
            tensor="loss",
            expected=f"{found.expected_loss:.8g}",
            got=f"{found.loss:.8g}",
        )
    for name, right, got in found.gradients:
        raise Violation(
            f"{message} gives other gradients, of {len(found.gradients)} parameters",
            tensor=name,
            expected=right,
            got=got,
        )


@training_check(short_clips, observation=on_one_rank(train_with_dropout), cost=12, draws="training on two frames")
def test_dropout_as_trained(case: Training, observe: Observe, target: Target) -> None:
    """With dropout and drop path a seed gives one step, checkpointed or not, and evaluation drops nothing.

    What is checkpointed draws again in the backward pass what it drew in the forward: otherwise each pass drops
    something else, and the gradients are of no loss at all. The target is compared with itself: a loop in another order
    draws other numbers and is as right.
    """
    seen: WithDropout = observe(case)
    _assert_equal(seen.again, "with dropout on, a training step run again under the same seed")
    _assert_equal(
        seen.reseeded,
        "with dropout on, another state of the generator of random numbers before the backward pass (what is "
        "checkpointed does not keep the state that it was computed with)",
    )
    for what, step in seen.turned.items():
        if isinstance(step, Violation):
            raise Violation(
                f"with dropout on and {what}, {step.message}", frame=step.frame, got=step.got, details=step.details
            )
        _assert_equal(step, f"with dropout on, a training step with {what}")
    allowed: dict[str, float] = {}
    for name, value in (item for steps in seen.evaluated for out in steps for item in out.items()):
        largest = float(value.abs().max()) if value.is_floating_point() and value.numel() else 0.0
        allowed[name] = max(allowed.get(name, 0.0), rounding(largest))
    message = "in evaluation frame {frame}'s outputs depend on the seed: something is dropped out there"
    assert_same_outputs(message, seen.evaluated, seen.evaluated_again, allowed)
