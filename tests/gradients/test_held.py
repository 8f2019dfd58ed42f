"""What a loss takes as given stays what it was in the first run, and what loses its gradient elsewhere does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from verify.gradients.double import in_double, widened
from verify.gradients.held import Diverged, Held, holding


class TransformerDecoder:
    """Stops gradients as sam3's does: of boxes, by a function of this name."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.detach()


def run(held: Held, recorded: bool, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> float:
    with holding(held, recorded) as hold, hold.loss():
        value = loss(x)
    return float(value.detach())


def leaf(value: float, width: int = 4) -> torch.Tensor:
    return torch.full((2, width), value, requires_grad=True)


def weighted(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        weight = x * 2
        weight[0] = 1
    return (weight * x + x.detach()).sum()


def test_what_a_loss_takes_out_of_the_graph_is_held() -> None:
    held = Held()
    run(held, False, leaf(3.0), weighted)
    # Weights and what is added stay 6, 1 and 3; what is learnt moves.
    assert run(held, True, leaf(5.0), weighted) == 4 * (1 * 5 + 3) + 4 * (6 * 5 + 3)


@pytest.mark.parametrize(("width", "kept"), [(4, 3.0), (8, 5.0)])
def test_boxes_of_a_decoder_are_held_and_nothing_else(width: int, kept: float) -> None:
    held = Held()
    for recorded, value in ((False, 3.0), (True, 5.0)):
        with holding(held, recorded):
            got = TransformerDecoder().forward(leaf(value, width))
    assert got.unique().tolist() == [kept]
    assert bool(held.stops) == (width != 4)


def test_matching_is_held() -> None:
    class SomeMatcher(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax()

    matcher, held = SomeMatcher(), Held()
    found = []
    for recorded, values in ((False, [0.0, 1.0]), (True, [1.0, 0.0])):
        with holding(held, recorded, nn.ModuleList([matcher])):
            found.append(int(matcher(torch.tensor(values))))
    assert found == [1, 1]
    assert not matcher._forward_hooks


def test_a_line_that_stops_a_gradient_is_named() -> None:
    held = Held()
    with holding(held, False):
        leaf(1.0).detach()
        leaf(1.0).data  # noqa: B018
    assert [stop.file for stop in held.stops] == [__file__, __file__]


def test_a_run_that_goes_another_way_is_told() -> None:
    with pytest.raises(Diverged):
        run(Held(), True, leaf(1.0), weighted)


def test_double_is_asked_for_whatever_is() -> None:
    with in_double():
        x = torch.ones(2)
        made = [x, x.float(), x.bfloat16(), x.to(torch.float16), torch.zeros(1, dtype=torch.float32), x * 0.1]
    assert {value.dtype for value in made} == {torch.float64}
    assert torch.get_default_dtype() is torch.float32
    assert widened({"a": [torch.ones(1), torch.ones(1, dtype=torch.long)]})["a"][1].dtype is torch.long
