"""Whether a loss trains a predicted mask on the target that it is matched with, and not on another object's.

Looked at where a mask says nothing, its logits zero everywhere: every loss of masks in use (focal, dice and their kin)
raises it there where only its own target is, more than where only the other one is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import adaptive_avg_pool2d

from verify.clips.stages import Outputs
from verify.training.matched import Matched, matched_in, name_in_last_step

_PREDICTED, _TARGET = "pred_masks", "segments"


@dataclass(frozen=True)
class OfAnother:
    """A matched mask that the loss draws to another object of its frame, more than to its own."""

    frame: int
    #: Number of the query in its stage, of its target and of the other one among those of the frame.
    query: int
    target: int
    other: int
    #: The derivative of the loss by the logits where only its own target is, less that where only the other is: it
    #: should be below 0.
    slope: float


def _pairs(step: Mapping[str, Any], expected: Any) -> Matched | None:
    masks, predicted = getattr(expected, _TARGET, None), step.get(_PREDICTED)
    if not isinstance(masks, torch.Tensor) or masks.dim() != 3:
        return None
    if not isinstance(predicted, torch.Tensor) or predicted.dim() != 4:
        return None
    pairs = matched_in(step, len(masks))
    if pairs is None or not len(pairs) or int(pairs.place.max()) >= predicted.shape[1]:
        return None
    return pairs


def without_masks(steps: Sequence[Sequence[Any]], targets: Sequence[Any]) -> list[list[Any]] | None:
    """Copies of all frames' steps in which matched masks say nothing; None where none is told matched."""
    told, emptied = False, []
    for of_frame, expected in zip(steps, targets, strict=True):
        *before, last = of_frame
        pairs = _pairs(last, expected)
        if pairs is not None:
            told = True
            masks = last[_PREDICTED].detach().clone()
            masks[pairs.query, pairs.place] = 0
            last = {**last, _PREDICTED: masks}
        emptied.append([*before, last])
    return emptied if told else None


def drawn_to_others(
    steps: Sequence[Sequence[Any]], targets: Sequence[Any], gradients: Sequence[Outputs]
) -> tuple[OfAnother, ...]:
    """The matched masks of steps, saying nothing, that a loss with these gradients draws to another object."""
    found: list[OfAnother] = []
    for frame, (of_frame, expected, of_outputs) in enumerate(zip(steps, targets, gradients, strict=True)):
        pairs = _pairs(of_frame[-1], expected)
        gradient = of_outputs.get(name_in_last_step(of_frame, _PREDICTED))
        if pairs is None or gradient is None:
            continue
        height, width = gradient.shape[-2:]
        covered = adaptive_avg_pool2d(expected.segments.double()[:, None], (height, width))[:, 0]
        by_logits = gradient[pairs.query, pairs.place].double().cpu()
        for number, (query, target) in enumerate(zip(pairs.query.tolist(), pairs.target.tolist(), strict=True)):
            for other in range(len(covered)):
                own_alone = (covered[target] == 1) & (covered[other] == 0)
                other_alone = (covered[other] == 1) & (covered[target] == 0)
                slope = float(by_logits[number][own_alone].sum() - by_logits[number][other_alone].sum())
                if slope > 0:
                    found.append(OfAnother(frame, query, target, other, slope))
    return tuple(found)
