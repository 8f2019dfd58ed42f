"""Losses and gradients of a clip: those of its frames one by one, and of no other frame."""

from __future__ import annotations

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.check import HAZARD
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.training.agreement import assert_gradients, assert_same_loss, numbers
from verify.training.case import any_clips, clips_of_several_frames, short_clips
from verify.training.forwards import Evaluated, evaluate_clip
from verify.training.gradient_map import GradientMap
from verify.training.group import Observe, mapped, trained, training_check
from verify.training.observation import Trained
from verify.training.pictures import clip_gradient_pictures, gradient_map_pictures, shows
from verify.training.settings import scale_losses


@training_check(any_clips, observation=trained)
def test_clip_loss(case: Training, observe: Observe, target: Target) -> None:
    """The loss of a clip is what the target's own loss gives for the frames' one-frame outputs.

    Summed or averaged, as that loss does it. Another value means that frames are missing, counted twice, or matched
    to targets of others.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    message = "the loss of the clip is not that of its frames one by one"
    assert_same_loss(message, seen.expected_loss, seen.loss, seen.loss_tolerance, case.frames)


@training_check(any_clips, observation=trained, pictures=clip_gradient_pictures, shows=shows)
def test_clip_gradients(case: Training, observe: Observe, target: Target) -> None:
    """Every parameter's gradient is the sum of what the frames one by one give it, weighted as the loss weights them.

    Outputs can be right and training wrong: features detached, or gradient from some of the frames alone, leave
    loss and outputs as they are and teach something else.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    assert_gradients(seen)


@training_check(any_clips, observation=trained, pictures=clip_gradient_pictures)
def test_same_parameters_trained(case: Training, observe: Observe, target: Target) -> None:
    """The parameters that get gradient are those that get it in sam3's one-frame model.

    A part cut off from the loss (a detached text encoder, say) stays as it was while the rest trains around it. One
    that is trained and should not be drifts.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    lost = [item.name for item in seen.gradients if item.expected and not item.got]
    extra = [item.name for item in seen.gradients if item.got and not item.expected]
    if lost or extra:
        names = lost or extra
        parts = sorted({".".join(name.split(".")[:2]) for name in names})
        raise Violation(
            f"{len(lost)} parameters of {', '.join(parts)} get no gradient, and do in sam3's one-frame model"
            if lost
            else f"{len(extra)} parameters of {', '.join(parts)} get gradient, and do not in sam3's one-frame model",
            tensor=names[0],
            expected="no gradient" if not lost else "gradient",
            got="gradient" if not lost else "no gradient, or nothing but zeros",
            details="\n".join(names[:40]),
        )


def _map_table(seen: GradientMap) -> list[list[object]]:
    rows: list[list[object]] = [["gradient of", *(f"in frame {frame}" for frame in range(seen.case.frames))]]
    for stage, row in enumerate(seen.frames):
        rows.append([f"stage {stage}", *(f"{value:.3g}" for value in row)])
    return rows


@training_check(any_clips, observation=mapped, pictures=gradient_map_pictures)
def test_every_frame_contributes(case: Training, observe: Observe, target: Target) -> None:
    """Every stage's outputs carry gradient back to the image of their own frame.

    A frame whose features are detached, or whose outputs are computed without gradient, costs its time and teaches
    the image backbone nothing.
    """
    seen: GradientMap = observe(case)
    for frame in range(case.frames):
        value = seen.frames[frame][frame] if frame < len(seen.frames) else 0.0
        if not value > 0:
            raise Violation(
                f"no gradient of stage {frame}'s outputs reaches the image of frame {frame}",
                frame=frame,
                expected="a gradient in the frame's own image",
                got="none" if value == 0 else value,
                table=_map_table(seen),
            )


@training_check(
    clips_of_several_frames,
    observation=mapped,
    draws="training of several frames",
    pictures=gradient_map_pictures,
    shows=shows,
)
def test_no_frame_leaks(case: Training, observe: Observe, target: Target) -> None:
    """No stage's outputs carry gradient to the image of another frame.

    The detector sees one frame at a time when it is used; trained on features that hold other frames too, it learns
    from what it will not have.
    """
    seen: GradientMap = observe(case)
    for stage, row in enumerate(seen.frames):
        others = {frame: value for frame, value in enumerate(row) if frame != stage and value != 0.0}
        if others:
            frame, value = max(others.items(), key=lambda item: item[1])
            raise Violation(
                f"stage {stage}'s outputs depend on the image of frame {numbers(others)}",
                frame=stage,
                expected=f"gradient in the image of frame {stage} alone",
                got=f"a gradient of norm {value:.3g} in the image of frame {frame}",
                table=_map_table(seen),
            )


@training_check(any_clips, observation=on_one_rank(evaluate_clip))
def test_validation_loss(case: Training, observe: Observe, target: Target) -> None:
    """In evaluation a loss can be computed from the outputs, and is that of the frames one by one.

    With a model built for training, which has a matcher. Without the matched indices the first validation ends the
    run, after an epoch of training.
    """
    seen: Evaluated = observe(case)
    if seen.failure is not None:
        cause = seen.failure
        raise Violation(
            f"in evaluation {cause.message}",
            frame=cause.frame,
            expected=f"a validation loss of {seen.expected_loss:.6g}",
            got=cause.got,
            details=cause.details,
        )
    message = "the validation loss of the clip is not that of its frames one by one"
    assert_same_loss(message, seen.expected_loss, seen.loss, seen.tolerance, case.frames)


@training_check(
    short_clips, observation=on_one_rank(scale_losses), cost=12, draws="training on two frames", kind=HAZARD
)
def test_loss_scale(case: Training, observe: Observe, target: Target) -> None:
    """The loss of a clip does not grow with its length: frames are averaged, not summed.

    Summed, a clip of eight frames weighs eight times as much as one frame, against weight decay, gradient clipping and
    a learning rate chosen for single images; and clips of different lengths weigh differently.
    """
    losses: dict[int, float] = observe(case)
    for frames, value in losses.items():
        if abs(value - losses[1]) > 1e-3 * abs(losses[1]):
            rows: list[list[object]] = [["equal frames", "loss", "of one frame's"]]
            rows += [[n, f"{loss:.6g}", f"{loss / losses[1]:.4g}"] for n, loss in losses.items()]
            raise Violation(
                f"the loss of a clip of {frames} equal frames is {value / losses[1]:.4g} times that of one frame",
                tensor="loss",
                expected=f"{losses[1]:.6g}, whatever the clip's length",
                got=f"{value:.6g} for {frames} frames",
                table=rows,
            )
