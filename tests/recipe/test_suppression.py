"""Mask NMS in the corrected buffer, by both measures of overlap, against a plain one that shares no code with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.oracle import detection
from reference.recipe.suppression import REMOVED, suppressed


@st.composite
def detections(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Draw two prompts' detections: scores that differ, masks of 2 x 2 pixels, some of them empty."""
    count = draw(st.integers(1, 5))
    scores = [draw(st.permutations(range(-2, 6))) for _ in range(2)]
    pixels = draw(st.lists(st.booleans(), min_size=8 * count, max_size=8 * count))
    return {
        "pred_logits": torch.tensor([row[:count] for row in scores], dtype=torch.float32)[..., None],
        "pred_masks": torch.where(torch.tensor(pixels).reshape(2, count, 2, 2), 1.0, -1.0),
    }


@given(
    found=detections(),
    probability=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    use_iom=st.booleans(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_kept_is_what_a_plain_nms_keeps(
    found: dict[str, torch.Tensor], probability: float, overlap: float, use_iom: bool
) -> None:
    if not use_iom:  # by the union, two empty masks have sam3 divide nothing by nothing
        found["pred_masks"][..., 0, 0] = 1.0
    wanted = detection.Suppression(probability, overlap, use_iom)
    kept = detection.kept_detections(found["pred_logits"], found["pred_masks"], wanted)
    before = found["pred_logits"].clone()
    got = suppressed(found, probability, overlap, use_iom)
    assert torch.equal(got, torch.where(kept[..., None], before, before - REMOVED))
    assert torch.equal(found["pred_logits"], before)


def test_the_measures_differ_for_a_small_mask_inside_a_large_one() -> None:
    found = {
        "pred_logits": torch.tensor([[[2.0], [1.0]]]),
        "pred_masks": torch.tensor([[[[1.0, 1.0], [1.0, 1.0]], [[1.0, -1.0], [-1.0, -1.0]]]]),
    }
    assert suppressed(found, 0.0, 0.5).flatten().tolist() == [2.0, 1.0]
    assert suppressed(found, 0.0, 0.5, use_iom=True).flatten().tolist() == [2.0, 1.0 - REMOVED]


@pytest.mark.parametrize("use_iom", [False, True])
def test_no_candidate_is_no_error(use_iom: bool) -> None:
    found = {"pred_logits": torch.zeros(1, 3, 1), "pred_masks": torch.ones(1, 3, 2, 2)}
    assert suppressed(found, 0.5, 0.5, use_iom).flatten().tolist() == [-REMOVED] * 3
