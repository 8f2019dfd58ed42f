"""What a target's loss makes of each frame of a clip: which outputs get gradient, and whose targets bear on it.

The loss is judged by itself, on copies of what the forward returned that are cut off from the model: so what is seen is
the loss's doing. All frames with objects have as many of them, so that whatever a loss divides by is the same in each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fixtures.synthetic.clips import make_clip
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.case import Training
from verify.clips.run import call, loss_of_target, loss_value, model_of
from verify.clips.stages import NOT_COMPARED, Outputs, Stages, read_stages
from verify.engine.finding import NotCovered, Violation
from verify.engine.place import Place, place_of, place_of_method
from verify.target.loading import load
from verify.target.naming import Target
from verify.tensors.describe import describe_difference
from verify.tensors.tolerance import MARGIN, distance, rounding
from verify.training.boxes_in_loss import NotDrawn, beside_targets, not_drawn
from verify.training.masks_in_loss import OfAnother, drawn_to_others, without_masks
from verify.training.matched import in_another_order

#: How far a box is moved, and how large it is then, in its own size: it stays inside of what it was.
SHIFT, SHRUNK = 0.08, 0.8


@dataclass(frozen=True)
class Changed:
    """An output whose gradient is another than before."""

    tensor: str
    #: In words.
    difference: str


@dataclass(frozen=True)
class Moved:
    """What came of changing the target boxes or masks of one frame, with matched indices as they were."""

    #: Whether the loss or a gradient of the frame's own outputs changed.
    bears: bool
    #: For each other frame whose gradients changed, by more than a weight of the whole frame, where most.
    others: Mapping[int, Changed]


@dataclass(frozen=True)
class FramesInLoss:
    """The loss of a clip, differentiated by the outputs of its frames."""

    #: The number of objects of each frame.
    objects: tuple[int, ...]
    #: For each frame the norm of the gradient of each of its outputs.
    gradients: tuple[Mapping[str, float], ...]
    #: What came of changing a frame's targets: by what was changed, boxes or, where they are trained on, masks, and by
    #: the frame; those without objects have none.
    moved: Mapping[str, Mapping[int, Moved]]
    #: For each frame with objects, whose gradients changed when its queries were put in another order, and what is
    #: matched with them: of other frames, by more than a weight of the whole frame, where most.
    turned: Mapping[int, Mapping[int, Changed]]
    #: The matched boxes that the loss does not draw to their targets, and the masks that it draws to others'.
    not_drawn: tuple[NotDrawn, ...]
    of_another: tuple[OfAnother, ...]


def place_of_loss(target: Target) -> Place | None:
    """Where the code of the loss lies."""
    loss = load(target).make_loss(masks=False)
    return place_of_method(type(loss), "forward") if isinstance(loss, nn.Module) else place_of(loss)


def even_clip(case: Training, empty: int | None) -> Any:
    """A case's batch with as many objects for each frame and query, but for an ``empty`` frame, which has none."""
    spec = replace(case.spec(), fewest=case.objects)
    batch = make_clip(spec)
    if empty is not None:
        bare = make_clip(replace(spec, objects=0, fewest=0))
        batch.find_targets[empty] = bare.find_targets[empty]
        batch.find_inputs[empty].object_ids = bare.find_inputs[empty].object_ids
    return batch


def _moved(boxes: torch.Tensor) -> torch.Tensor:
    """Move boxes, given by centre and size; those that only fill a place, nothing but zeros, stay so."""
    if not boxes.numel():
        return boxes
    centre, size = boxes.view(-1, 4).split(2, dim=1)
    return torch.cat([centre + SHIFT * size, SHRUNK * size], dim=1).view_as(boxes)


def with_moved_boxes(batch: Any, frame: int) -> Any:
    """Give a batch in which the target boxes of a frame are moved, wherever they are written down."""
    targets = list(batch.find_targets)
    names = ("boxes", "boxes_padded", "repeated_boxes")
    targets[frame] = replace(targets[frame], **{name: _moved(getattr(targets[frame], name)) for name in names})
    return replace(batch, find_targets=targets)


def with_other_masks(batch: Any, frame: int) -> Any:
    """Give a batch in which the target masks of a frame are turned inside out."""
    targets = list(batch.find_targets)
    targets[frame] = replace(targets[frame], segments=~targets[frame].segments)
    return replace(batch, find_targets=targets)


def _cut_off(value: Any, name: str, leaves: Outputs) -> Any:
    """Copy outputs, cut off from what they were computed from; ``leaves`` gets what they are computed from instead.

    Each tensor is one of its own, also where frames share one: whose gradient it is, is told apart.
    """
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value
        leaves[name] = value.detach().clone().requires_grad_()
        return leaves[name].clone()  # a loss may write into what it is given, and a leaf cannot be written into
    if isinstance(value, dict):
        copied = copy.copy(value)
        for key, item in value.items():
            if key not in NOT_COMPARED:
                copied[key] = _cut_off(item, f"{name}.{key}" if name else str(key), leaves)
        return copied
    if type(value) in (list, tuple):
        return type(value)(_cut_off(item, f"{name}[{number}]", leaves) for number, item in enumerate(value))
    return value


@dataclass(frozen=True)
class _Evaluated:
    loss: float
    #: For each frame the gradients of its outputs.
    gradients: tuple[Outputs, ...]


class _Judged:
    """What a forward returned, and a loss on it: each time a new one on fresh copies, so that nothing is left over."""

    def __init__(self, target: Target, case: Training, model: nn.Module, batch: Any) -> None:
        self._target, self._case, self._model, self._batch = target, case, model, batch
        self._returned = call(model, batch)
        # Before the loss sees them: it may take entries away, or put others in their place.
        self._steps = [[_cut_off(step, "", {}) for step in steps] for steps in self._readable().steps]
        self._loss(batch, self._case.seed)  # where it fails on these, that is no fault of copies

    def _readable(self) -> Stages:
        frames, stages = len(self._batch.find_inputs), read_stages(self._returned)
        named = getattr(self._returned, "loss_stages", None)
        if stages.misfit is not None:
            raise NotCovered(f"whose outputs the loss uses cannot be told: {stages.misfit}")
        if len(stages.steps) != frames:
            raise NotCovered(
                f"whose outputs the loss uses cannot be told: {len(stages.steps)} stages came back for {frames} frames"
            )
        if named is not None and list(named) != list(range(frames)):
            raise NotCovered(f"the forward leaves frames out of the loss by itself: its loss_stages are {list(named)}")
        return stages

    def _loss(self, batch: Any, seed: int) -> torch.Tensor:
        torch.manual_seed(self._case.seed)
        loss = loss_of_target(self._target, self._case)
        torch.manual_seed(seed)
        targets = copy.deepcopy(batch.find_targets)
        return loss_value(loss, self._returned, self._model, replace(batch, find_targets=targets))

    def evaluate(
        self,
        change: Callable[[Any, int], Any] | None = None,
        frame: int = 0,
        another_seed: bool = False,
        steps: Sequence[Sequence[Any]] | None = None,
    ) -> _Evaluated:
        """The loss and its gradients, perhaps with a frame's targets changed, under another seed, or of other steps."""
        batch = self._batch if change is None else change(self._batch, frame)
        leaves: list[Outputs] = [{} for _ in self._steps]
        self._returned.output = [
            [_cut_off(step, f"step {number}" if len(given) > 1 else "", found) for number, step in enumerate(given)]
            for given, found in zip(steps or self._steps, leaves, strict=True)
        ]
        try:
            value = self._loss(batch, self._case.seed + another_seed)
        except Violation as violation:
            raise NotCovered(f"on copies of what the forward returns, {violation.message}") from violation
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            raise NotCovered("the loss is not computed from the tensors among the stages' outputs")
        return _Evaluated(float(value.detach()), _gradients(value, leaves))

    def not_drawn(self) -> tuple[NotDrawn, ...]:
        """The matched boxes that the loss does not draw to their targets, from one side or the other."""
        found: list[NotDrawn] = []
        for side in (1, -1):
            steps = beside_targets(self._steps, self._batch.find_targets, side)
            if steps is not None:
                gradients = self.evaluate(steps=steps).gradients
                found += not_drawn(steps, self._batch.find_targets, gradients)
        return tuple(found)

    def of_another(self) -> tuple[OfAnother, ...]:
        """The matched masks that the loss draws to another object."""
        steps = without_masks(self._steps, self._batch.find_targets)
        if steps is None:
            return ()
        return drawn_to_others(steps, self._batch.find_targets, self.evaluate(steps=steps).gradients)

    def turned(self, frame: int) -> _Evaluated:
        """The loss and its gradients with a frame's queries in another order."""
        return self.evaluate(
            steps=[
                [in_another_order(step) for step in steps] if number == frame else steps
                for number, steps in enumerate(self._steps)
            ]
        )


def _gradients(value: torch.Tensor, leaves: Sequence[Outputs]) -> tuple[Outputs, ...]:
    inputs = [leaf for found in leaves for leaf in found.values()]
    computed = iter(torch.autograd.grad(value, inputs, allow_unused=True))
    return tuple(
        {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(found.items(), computed, strict=False)
        }
        for found in leaves
    )


def _weight(before: Outputs, after: Outputs, again: Outputs) -> float:
    """How much a frame weighs beside what it did, by gradients in which nothing is drawn at random."""
    square = common = 0.0
    for name, values in before.items():
        if torch.equal(values, again[name]):
            square += float(values.double().pow(2).sum())
            common += float((values.double() * after[name].double()).sum())
    return common / square if square > 0 and common > 0 else 1.0


def _most_apart(before: Outputs, after: Outputs, again: Outputs, weight: float) -> Changed | None:
    worst, found = 0.0, None
    for name, values in before.items():
        if not values.numel():
            continue
        largest = max(1.0, weight) * float(values.abs().max())
        allowed = MARGIN * distance(values, again[name]) + rounding(largest, values.dtype)
        apart = distance(weight * values.double(), after[name])
        if apart > max(allowed, worst):
            worst, found = apart, Changed(name, describe_difference(values, after[name]))
    return found


def changed(before: Outputs, after: Outputs, again: Outputs) -> Changed | None:
    """Where a frame's gradients differ most, but for a weight of the whole frame; None where they do not.

    Weights are the loss's to choose, also by how the frames compare. What differs under another seed, in ``again``
    (points that are sampled, say), is no reason either.
    """
    found = _most_apart(before, after, again, weight=1.0)
    if found is None or _most_apart(before, after, again, _weight(before, after, again)) is None:
        return None
    return found


def _in_others(frame: int, plain: _Evaluated, other: _Evaluated, again: _Evaluated) -> Mapping[int, Changed]:
    """In which frames but this one gradients are others, and where most."""
    compared = {
        number: changed(before, other.gradients[number], again.gradients[number])
        for number, before in enumerate(plain.gradients)
        if number != frame
    }
    return {number: what for number, what in compared.items() if what is not None}


def _moved_in(
    judged: _Judged, change: Callable[[Any, int], Any], frame: int, plain: _Evaluated, again: _Evaluated
) -> Moved:
    other = judged.evaluate(change, frame)
    own = plain.gradients[frame]
    bears = other.loss != plain.loss or any(
        not torch.equal(values, other.gradients[frame][name]) for name, values in own.items()
    )
    return Moved(bears, _in_others(frame, plain, other, again))


def _use(judged: _Judged, objects: tuple[int, ...], masks: bool) -> FramesInLoss:
    plain, again = judged.evaluate(), judged.evaluate(another_seed=True)
    with_objects = [frame for frame, count in enumerate(objects) if count]
    changes = {"boxes": with_moved_boxes} | ({"masks": with_other_masks} if masks else {})
    return FramesInLoss(
        objects,
        gradients=tuple({name: float(values.norm()) for name, values in found.items()} for found in plain.gradients),
        moved={
            what: {frame: _moved_in(judged, change, frame, plain, again) for frame in with_objects}
            for what, change in changes.items()
        },
        turned={frame: _in_others(frame, plain, judged.turned(frame), again) for frame in with_objects},
        not_drawn=judged.not_drawn(),
        of_another=judged.of_another() if masks else (),
    )


def use_frames(rank: int, world_size: int, target: Target, case: Training) -> tuple[FramesInLoss, ...]:
    """Differentiate the loss by the outputs of a clip's frames: of one with objects in all, and one with an empty one.

    Raises:
        NotCovered: where it cannot be told which outputs are a frame's, or the loss does not take copies of them.
    """
    with sam3_on_cpu():
        model, found = model_of(target, case), []
        for empty in (None, case.seed % case.frames):
            batch = even_clip(case, empty)
            objects = tuple(int(expected.num_boxes.sum()) for expected in batch.find_targets)
            torch.manual_seed(case.seed)
            found.append(_use(_Judged(target, case, model, batch), objects, case.mask_loss))
        return tuple(found)
