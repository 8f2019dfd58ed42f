"""Whether a loss draws a predicted box to the target that it is matched with: from just beside it, on either side.

Far away a loss of boxes may do as it likes; near the target every one that is in use (L1, IoU and its kin) falls
towards it. Scores are left as they are, so nothing is asked of how a loss weighs them by boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.ops import box_convert

from verify.clips.stages import Outputs
from verify.training.matched import Matched, matched_in, name_in_last_step

#: How far beside its target a box is put, in centre and size, in parts of the target's size.
BESIDE = 0.04
#: What a predicted box is called, by centre and size, and by its corners; and what a target is.
_PREDICTED, _PREDICTED_CORNERS, _TARGET = "pred_boxes", "pred_boxes_xyxy", "boxes"


@dataclass(frozen=True)
class NotDrawn:
    """A matched box that the loss does not draw to its target."""

    frame: int
    #: Number of the query in its stage, and of its target among those of the frame.
    query: int
    target: int
    #: The derivative of the loss towards the target, which should be below 0.
    slope: float


def _by_name(boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boxes [n, 4], given by centre and size, under each name that predictions go by."""
    return {_PREDICTED: boxes, _PREDICTED_CORNERS: box_convert(boxes, "cxcywh", "xyxy")}


def _pairs(step: Mapping[str, Any], expected: Any) -> tuple[Matched, torch.Tensor] | None:
    """What a forward has matched, and the target boxes [pairs, 4]; None where one of them is not told."""
    boxes = getattr(expected, _TARGET, None)
    if not isinstance(boxes, torch.Tensor):
        return None
    boxes = boxes.view(-1, 4).cpu()
    pairs = matched_in(step, len(boxes))
    return None if pairs is None else (pairs, boxes[pairs.target])


def beside_targets(steps: Sequence[Sequence[Any]], targets: Sequence[Any], side: int) -> list[list[Any]] | None:
    """Copies of all frames' steps in which matched boxes lie beside their targets; None where none is told matched."""
    told, moved = False, []
    for of_frame, expected in zip(steps, targets, strict=True):
        *before, last = of_frame
        found = _pairs(last, expected)
        if found is not None and len(found[0]):
            told = True
            pairs, boxes = found
            last = _with_boxes(last, pairs, boxes + side * BESIDE * boxes[:, 2:].repeat(1, 2))
        moved.append([*before, last])
    return moved if told else None


def _with_boxes(step: Mapping[str, Any], pairs: Matched, boxes: torch.Tensor) -> dict[str, Any]:
    changed = dict(step)
    for name, values in _by_name(boxes).items():
        if name in changed:
            changed[name] = changed[name].detach().clone()
            changed[name][pairs.query, pairs.place] = values.to(changed[name])
    return changed


def not_drawn(
    steps: Sequence[Sequence[Any]], targets: Sequence[Any], gradients: Sequence[Outputs]
) -> tuple[NotDrawn, ...]:
    """The matched boxes of steps that a loss with these gradients does not draw to their targets.

    A loss that has no gradient in any box is left alone: it takes boxes from elsewhere.
    """
    found: list[NotDrawn] = []
    drawn = False
    for frame, (of_frame, expected, of_outputs) in enumerate(zip(steps, targets, gradients, strict=True)):
        told = _pairs(of_frame[-1], expected)
        if told is None:
            continue
        pairs, boxes = told
        slope = torch.zeros(len(pairs), dtype=torch.float64)
        for name, values in _by_name(boxes).items():
            gradient = of_outputs.get(name_in_last_step(of_frame, name))
            if gradient is not None:
                at, way = (pairs.query, pairs.place), values - of_frame[-1][name][pairs.query, pairs.place].cpu()
                slope += (gradient[at].double().cpu() * way.double()).sum(dim=-1)
        drawn = drawn or bool((slope != 0).any())
        for pair in (slope >= 0).nonzero().flatten().tolist():
            found.append(NotDrawn(frame, int(pairs.query[pair]), int(pairs.target[pair]), float(slope[pair])))
    return tuple(found) if drawn else ()
