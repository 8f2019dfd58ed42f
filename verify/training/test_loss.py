"""What a target's loss makes of the frames of a clip, judged by itself: other checks apply it on both sides."""

from __future__ import annotations

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.training.case import clips_with_objects
from verify.training.frames_in_loss import FramesInLoss, place_of_loss, use_frames
from verify.training.group import Observe, training_check

#: What says how sure the detector is of an object; where a frame has objects, it is always trained.
_SCORES = "pred_logits"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _scores(gradients: dict[str, float]) -> dict[str, float]:
    return {name: norm for name, norm in gradients.items() if _leaf(name).startswith(_SCORES)}


def _table(seen: FramesInLoss) -> list[list[object]]:
    rows: list[list[object]] = [["frame", "objects", f"gradient of {_SCORES}", "of all outputs"]]
    for frame, (count, gradients) in enumerate(zip(seen.objects, seen.gradients, strict=True)):
        norms = (_scores(dict(gradients)), gradients)
        rows.append([frame, count, *(f"{sum(norm**2 for norm in part.values()) ** 0.5:.3g}" for part in norms)])
    return rows


def _assert_every_frame_counts(seen: FramesInLoss) -> None:
    """Each frame gets a gradient: where it has objects its scores, where it has none any output.

    sam3's own loss tells of a frame without objects by its presence alone.
    """
    for frame, (count, gradients) in enumerate(zip(seen.objects, seen.gradients, strict=True)):
        needed = (_scores(dict(gradients)) if count else {}) or gradients
        if any(norm != 0 for norm in needed.values()):
            continue
        left_out = not any(norm != 0 for norm in gradients.values())
        what = f"any output of frame {frame}" if left_out else f"the scores of frame {frame}, {_SCORES},"
        why = "" if count else ", in which there are no objects: what is found there all the same is never unlearnt"
        raise Violation(
            f"the loss gives no gradient to {what}{why}",
            frame=frame,
            tensor=_SCORES if count else None,
            expected="a gradient of the loss in the outputs of each frame",
            got="none, or nothing but zeros",
            table=_table(seen),
        )


#: What of an output is a score of every query or frame: a loss on it is never without gradient by chance.
_ALWAYS_TRAINED = (_SCORES, "presence_logit")


def _assert_same_outputs_trained(seen: FramesInLoss) -> None:
    """What of the scores is trained in one frame with objects, of whichever decoder layer, is so in each of them."""
    trained = {
        frame: {name for name, norm in gradients.items() if norm != 0 and _leaf(name).startswith(_ALWAYS_TRAINED)}
        for frame, (count, gradients) in enumerate(zip(seen.objects, seen.gradients, strict=True))
        if count
    }
    anywhere = set().union(*trained.values())
    for frame, names in trained.items():
        for name in sorted(anywhere - names):
            elsewhere = next(other for other, found in trained.items() if name in found)
            raise Violation(
                f"the loss gives no gradient to {name} of frame {frame}, and one to that of frame {elsewhere}",
                frame=frame,
                tensor=name,
                expected="a gradient in each frame with objects, or in none",
                got="none, or nothing but zeros",
                table=_table(seen),
            )


def _assert_own_targets(seen: FramesInLoss, what: str) -> None:
    """Each frame's target boxes, or masks, bear on that frame, and on no other.

    A loss may do without masks; in one frame and not in another they are left out.
    """
    of_frames = seen.moved.get(what, {})
    for frame, moved in of_frames.items():
        for other, changed in moved.others.items():
            raise Violation(
                f"the loss trains frame {other} on the target {what} of frame {frame}: with these changed, and matched "
                f"indices as they were, the gradient of frame {other}'s {changed.tensor} is another",
                frame=other,
                tensor=changed.tensor,
                expected=f"the gradient as it was, whatever the {what} of frame {frame}",
                got=changed.difference,
                table=_table(seen),
            )
        if not moved.bears and (what == "boxes" or any(other.bears for other in of_frames.values())):
            raise Violation(
                f"the target {what} of frame {frame} do not bear on the loss: with these changed, neither the loss nor "
                f"the gradient of any output of frame {frame} is another",
                frame=frame,
                tensor=what,
                expected=f"another loss, or other gradients in frame {frame}",
                got="the same bits",
                table=_table(seen),
            )


def _assert_boxes_drawn(seen: FramesInLoss) -> None:
    """Put beside the target that it is matched with, each box is drawn to it."""
    for box in seen.not_drawn:
        raise Violation(
            f"the loss does not draw a box to its target: put just beside target {box.target} of frame {box.frame}, "
            f"with which it is matched, the box of query {box.query} "
            + ("gets no gradient towards it" if box.slope == 0 else "is pushed away from it"),
            frame=box.frame,
            tensor="pred_boxes",
            expected="a derivative of the loss towards the target below 0",
            got=f"{box.slope:.3g}",
            table=_table(seen),
        )


def _assert_own_matching(seen: FramesInLoss) -> None:
    """Which prediction of a frame is matched is that frame's own affair: the order of another's queries is none."""
    for frame, others in seen.turned.items():
        for other, changed in others.items():
            raise Violation(
                f"the loss trains frame {other} by what is matched in frame {frame}: with the queries of frame {frame} "
                f"in another order, and its matched indices with them, the gradient of frame {other}'s "
                f"{changed.tensor} is another",
                frame=other,
                tensor=changed.tensor,
                expected=f"the gradient as it was, whatever the order of frame {frame}'s queries",
                got=changed.difference,
                table=_table(seen),
            )


def _assert_own_masks(seen: FramesInLoss) -> None:
    """Where it says nothing yet, each mask is drawn to its own target rather than to another object's."""
    for mask in seen.of_another:
        raise Violation(
            f"the loss trains a mask on another object's: in frame {mask.frame} the mask of query {mask.query} is "
            f"matched with target {mask.target}, and drawn to that of target {mask.other}",
            frame=mask.frame,
            tensor="pred_masks",
            expected=f"logits of 0 to be raised where target {mask.target} is, and not where only the other is",
            got=f"a derivative of the loss of {mask.slope:.3g} towards target {mask.target} and away from the other",
            table=_table(seen),
        )


@training_check(
    clips_with_objects,
    observation=on_one_rank(use_frames),
    draws="training on frames with as many objects",
    place_of_code=place_of_loss,
)
def test_every_frame_counts_in_the_loss(case: Training, observe: Observe, target: Target) -> None:
    """The loss gives each frame's outputs a gradient, also where there are no objects, and by its own targets alone.

    Scores of the decoder's earlier layers and of presence are trained in each frame, or in none. A frame that is left
    out is never learnt from; where empty ones are, nothing tells the detector to find less. With boxes or masks of
    another frame it learns to lag behind what moves, and by another frame's matching it trains whatever query is there.
    A box beside the target that it is matched with is drawn to it, and a mask to its own target. Frames may weigh
    differently.
    """
    clips: tuple[FramesInLoss, ...] = observe(case)
    for seen in clips:
        _assert_every_frame_counts(seen)
        _assert_same_outputs_trained(seen)
        _assert_own_targets(seen, "boxes")
        _assert_own_targets(seen, "masks")
        _assert_own_matching(seen)
        _assert_boxes_drawn(seen)
        _assert_own_masks(seen)
