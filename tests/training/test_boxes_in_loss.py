"""Matched boxes are found as sam3's matchers tell them; where they are told otherwise, nothing is said of the loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from verify.training.boxes_in_loss import BESIDE, NotDrawn, beside_targets, not_drawn

TARGET = SimpleNamespace(boxes=torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.1]]))
MATCHED = (torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 0]))


def step(indices: Any) -> dict[str, Any]:
    return {"pred_boxes": torch.zeros(2, 3, 4), "indices": indices}


def test_matched_boxes_are_put_beside_their_targets() -> None:
    moved = beside_targets([[step(MATCHED)]], [TARGET], -1)
    assert moved is not None
    boxes = moved[0][0]["pred_boxes"]
    torch.testing.assert_close(boxes[0, 2], TARGET.boxes[1] - BESIDE * torch.tensor([0.1, 0.1, 0.1, 0.1]))
    torch.testing.assert_close(boxes[1, 0], TARGET.boxes[0] - BESIDE * torch.tensor([0.2, 0.4, 0.2, 0.4]))
    assert int((boxes != 0).sum()) == 8


def test_a_box_that_is_not_drawn_is_named_with_its_query_and_its_target() -> None:
    steps = beside_targets([[step(MATCHED)]], [TARGET], 1)
    assert steps is not None
    gradient = torch.zeros(2, 3, 4)
    gradient[0, 2] = 1.0  # the box lies above its target in each coordinate: descent goes down, to it
    assert not_drawn(steps, [TARGET], [{"pred_boxes": gradient}]) == (NotDrawn(0, 1, 0, 0.0),)
    gradient[1, 0] = -1.0
    (pushed,) = not_drawn(steps, [TARGET], [{"pred_boxes": gradient}])
    assert (pushed.query, pushed.target) == (1, 0)
    assert pushed.slope == pytest.approx(BESIDE * 1.2, rel=1e-4)


def test_a_loss_without_a_gradient_in_any_box_is_left_alone() -> None:
    steps = beside_targets([[step(MATCHED)]], [TARGET], 1)
    assert steps is not None
    assert not_drawn(steps, [TARGET], [{"pred_logits": torch.ones(2, 3, 1)}]) == ()


@pytest.mark.parametrize(
    "indices",
    [
        None,
        [([0], [1]), ([0], [0]), ([], [])],
        (torch.tensor([0]), torch.tensor([1])),
        (torch.tensor([0]), torch.tensor([1, 2]), None),
        (torch.tensor([0]), torch.tensor([1]), torch.tensor([7])),
    ],
    ids=["none", "pairs a query", "two parts", "uneven", "no such target"],
)
def test_what_is_matched_otherwise_is_left_alone(indices: Any) -> None:
    assert beside_targets([[step(indices)]], [TARGET], 1) is None
