"""What a forward has matched in a frame: which predictions with which targets, as sam3's matchers tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Matched:
    """Matched predictions of a frame: of which queries, at which places among theirs, and with which targets."""

    #: Each [pairs], on the CPU; targets are numbered through all queries of the frame.
    query: torch.Tensor
    place: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.query)


def matched_in(step: Mapping[str, Any], targets: int) -> Matched | None:
    """What a forward has matched in a step, of so many targets.

    None where it says nothing of it, or not as sam3's matchers do: number of the query, place, and number of the
    target, or None where targets are in order.
    """
    indices, boxes = step.get("indices"), step.get("pred_boxes")
    if not isinstance(indices, (tuple, list)) or len(indices) != 3:
        return None
    query, place, target = indices
    if not isinstance(boxes, torch.Tensor) or boxes.dim() != 3 or boxes.shape[2] != 4:
        return None
    if not (isinstance(query, torch.Tensor) and isinstance(place, torch.Tensor) and query.shape == place.shape):
        return None
    numbers = target.cpu() if isinstance(target, torch.Tensor) else torch.arange(len(query))
    if numbers.shape != query.shape:
        return None
    bounds = ((query, boxes.shape[0]), (place, boxes.shape[1]), (numbers, targets))
    if any(len(part) and int(part.max()) >= bound for part, bound in bounds):
        return None
    return Matched(query.cpu(), place.cpu(), numbers)


def name_in_last_step(steps: Sequence[Any], output: str) -> str:
    """What an output of a frame's last step is called among the gradients of all its ``steps``."""
    return output if len(steps) == 1 else f"step {len(steps) - 1}.{output}"


def in_another_order(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step whose predictions of each query are in reverse order, in all layers, and what is matched with them."""
    scores = step.get("pred_logits")
    if not isinstance(scores, torch.Tensor) or scores.dim() < 2:
        return {**step}

    def turned(name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[:2] == scores.shape[:2]:
            return value.flip(1)
        if name == "indices" and isinstance(value, (tuple, list)) and len(value) > 1:
            query, place, *others = value
            return (query, scores.shape[1] - 1 - place, *others)
        if isinstance(value, Mapping):
            return in_another_order(value)
        if isinstance(value, (tuple, list)) and all(isinstance(item, Mapping) for item in value):
            return [in_another_order(item) for item in value]
        return value

    return {name: turned(name, value) for name, value in step.items()}
