"""Queries in another order take their scores, boxes, masks and matched indices with them, in each layer."""

from __future__ import annotations

from typing import Any

import torch

from verify.training.matched import in_another_order

PLACE = torch.tensor([0, 2])


def step(**others: Any) -> dict[str, Any]:
    scores = torch.arange(3.0).view(1, 3, 1)
    return {"pred_logits": scores, "indices": (torch.tensor([0, 0]), PLACE, None), **others}


def test_what_is_matched_stays_so() -> None:
    boxes = torch.arange(12.0).view(1, 3, 4)
    turned = in_another_order(step(pred_boxes=boxes, aux_outputs=[step(pred_boxes=boxes)]))
    for layer in (turned, turned["aux_outputs"][0]):
        query, place, target = layer["indices"]
        assert target is None
        assert torch.equal(layer["pred_boxes"][query, place], boxes[0, PLACE])
        assert layer["pred_logits"].flatten().tolist() == [2, 1, 0]


def test_what_is_not_of_queries_is_left() -> None:
    others = {"semantic_seg": torch.rand(1, 1, 3, 3), "presence_logit": torch.rand(1, 3), "name": "first"}
    turned = in_another_order(step(**others))
    assert all(turned[name] is value for name, value in others.items())


def test_a_step_without_scores_is_left() -> None:
    assert in_another_order({"pred_boxes": PLACE}) == {"pred_boxes": PLACE}
