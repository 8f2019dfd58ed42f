"""What the frames of an exception hold on to, and that it is let go."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fixtures.ranks.stacks import chain_text, release_frames


def _fails(values: torch.Tensor) -> torch.Tensor:
    raise ValueError("no gradient of this")


def _hooks_in_force() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_forward_that_failed_under_checkpointing_leaves_no_hooks(looked_at: bool) -> None:
    try:
        checkpoint(_fails, torch.ones(2, requires_grad=True), use_reentrant=False)
    except ValueError as error:
        kept = RuntimeError("the forward failed")
        kept.__cause__ = error
    if looked_at:
        assert any(frame.f_locals for frame, _ in traceback.walk_tb(kept.__cause__.__traceback__))
    assert _hooks_in_force()
    release_frames(kept)
    assert not _hooks_in_force()
    assert "in _fails" in chain_text(kept)
