"""A matched mask that is drawn to another object's is named; where nothing can be told, nothing is said of the loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from verify.training.masks_in_loss import OfAnother, drawn_to_others, without_masks

#: Two objects on 8 x 8 pixels, of which predictions have 4 x 4: one to the left, one to the right; both in the middle.
LEFT, RIGHT = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
LEFT[:, :5], RIGHT[:, 3:] = True, True
TARGET = SimpleNamespace(segments=torch.stack([LEFT, RIGHT]))
MATCHED = (torch.tensor([0, 0]), torch.tensor([2, 1]), None)


def step(indices: Any = MATCHED) -> dict[str, Any]:
    return {"pred_boxes": torch.zeros(1, 3, 4), "pred_masks": torch.ones(1, 3, 4, 4), "indices": indices}


def test_matched_masks_say_nothing() -> None:
    emptied = without_masks([[step()]], [TARGET])
    assert emptied is not None
    assert emptied[0][0]["pred_masks"].sum(dim=(0, 2, 3)).tolist() == [16, 0, 0]


def test_a_mask_that_is_drawn_to_another_is_named_with_both() -> None:
    gradient = torch.zeros(1, 3, 4, 4)
    gradient[0, 2, :, 0], gradient[0, 2, :, 3] = -1.0, 1.0  # descent raises it on the left
    gradient[0, 1] = gradient[0, 2]
    found = drawn_to_others([[step()]], [TARGET], [{"pred_masks": gradient}])
    assert found == (OfAnother(frame=0, query=0, target=1, other=0, slope=8.0),)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (step(None), TARGET),
        (step((torch.tensor([0]), torch.tensor([1]), torch.tensor([7]))), TARGET),
        ({**step(), "pred_masks": torch.ones(1, 1, 4, 4)}, TARGET),
        ({**step(), "pred_masks": None}, TARGET),
        (step(), SimpleNamespace(segments=None)),
    ],
    ids=["none", "no such target", "fewer masks than boxes", "no masks", "no target masks"],
)
def test_what_is_told_otherwise_is_left_alone(returned: Any, expected: Any) -> None:
    assert without_masks([[returned]], [expected]) is None
    assert drawn_to_others([[returned]], [expected], [{"pred_masks": torch.ones(1, 3, 4, 4)}]) == ()
