"""What sam3's predictors do to autocast, what that leads to, and that the recipe's builder undoes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sam3 import model_builder as parts

from fixtures.torch_state import differences, restore, torch_state
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.shrink import toy_width
from reference.recipe.autocast_kept import autocast_kept

pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla is imported")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch_state()
    yield
    restore(before)


def make_predictor() -> None:
    with sam3_on_cpu(), toy_width():
        parts.build_tracker(apply_temporal_disambiguation=False)


def test_sam3_opens_autocast_for_good() -> None:
    before = torch_state()
    make_predictor()
    assert torch_state().open == before.open + 1


def test_nothing_is_left_of_that() -> None:
    before = torch_state()
    with autocast_kept():
        make_predictor()
    assert torch_state() == before


def test_nothing_is_left_where_making_it_fails() -> None:
    before = torch_state()
    with pytest.raises(ValueError, match="no"):
        _fail_in_the_middle()
    assert torch_state() == before


@autocast_kept()
def _fail_in_the_middle() -> None:
    torch.autocast("cuda", torch.bfloat16).__enter__()
    torch.set_autocast_cache_enabled(False)
    raise ValueError("no")


def _trained_output() -> float:
    """A layer's output under autocast, after a step of it and a change of its weight."""
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.ones(1, 1))
    with torch.no_grad():
        layer.weight.fill_(2.0)
    with torch.autocast("cpu", torch.bfloat16):
        return float(layer(torch.ones(1, 1)).detach())


def test_with_a_context_left_open_training_goes_on_with_old_weights() -> None:
    assert _trained_output() == 2.0
    torch.autocast("cuda", torch.bfloat16).__enter__()
    assert _trained_output() == 1.0


def test_every_difference_is_told() -> None:
    before = torch_state()
    torch.autocast("cpu", torch.bfloat16, cache_enabled=False).__enter__()
    torch.set_autocast_dtype("cpu", torch.float16)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    told = " ".join(differences(before, torch_state()))
    for said in ("contexts of autocast that are open: 0", "cpu: off before, on after", "torch.float16 after"):
        assert said in told
    for said in ("copies of weights", "gradients: on before, off after", "torch.float32 before, torch.float64 after"):
        assert said in told
    restore(before)
    assert differences(before, torch_state()) == ()
