"""The precision that a target is tried in under autocast is the one that its configuration trains it in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from verify.configuration.precision import trained_in, why_no_autocast
from verify.target.naming import Target

RECIPE = Path("reference/configs/video_finetune.yaml")


@pytest.mark.parametrize("spec", ["reference", "posted", "fixtures.forks.training:SteppedLoop"])
def test_the_recipe_trains_in_bfloat16(spec: str) -> None:
    assert trained_in(Target(spec)) is torch.bfloat16
    assert why_no_autocast(Target(spec)) is None


@pytest.mark.parametrize(
    ("amp", "precision"),
    [
        ("enabled: false", torch.float32),
        ("enabled: true\n      amp_dtype: float16", torch.float16),
        ("enabled: true", torch.float16),
    ],
)
def test_a_configuration_sets_another(tmp_path: Path, amp: str, precision: torch.dtype) -> None:
    text = RECIPE.read_text()
    written = tmp_path / "training.yaml"
    written.write_text(text.replace("enabled: true\n      amp_dtype: bfloat16", amp))
    target = Target("reference", config=str(written))
    assert trained_in(target) is precision
    assert (why_no_autocast(target) is None) == (precision is torch.float16)
