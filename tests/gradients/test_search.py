"""The search names the parameters whose gradient is wrong, and no others; what it cannot tell it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from verify.gradients.search import MOST_NAMED, Sought, Weight, search

WIDTH = 4


class Deep(nn.Module):
    """Forty layers in a row."""

    def __init__(self, depth: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.idle = nn.Linear(WIDTH, WIDTH)
        self.double()
        self.given = torch.randn(3, WIDTH, dtype=torch.float64)

    def forward(self) -> torch.Tensor:
        x = self.given
        for layer in self.layers:
            x = x + 0.3 * torch.tanh(layer(x))
        return x.square().sum()


Change = Callable[[torch.Tensor], torch.Tensor | None]


def sought(changed: Mapping[str, Change], model: nn.Module | None = None) -> Sought:
    """Search a model some of whose gradients are changed."""
    model = Deep() if model is None else model
    model().backward()
    weights = []
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if gradient is not None and name in changed:
            gradient = changed[name](gradient)
        weights.append(Weight(name, parameter, gradient))
    return search(lambda: float(model().detach()), weights)


def test_right_gradients_are_decided_all() -> None:
    assert sought({}) == Sought((), (), ())


def test_one_lost_gradient_is_named() -> None:
    found = sought({"layers.17.weight": lambda gradient: None})
    assert [item.name for item in found.wrong] == ["layers.17.weight"]
    assert found.wrong[0].got is None
    assert found.wrong[0].expected != 0


def test_a_hundredth_of_one_gradient_is_missed() -> None:
    found = sought({"layers.31.bias": lambda gradient: 0.99 * gradient})
    assert [item.name for item in found.wrong] == ["layers.31.bias"]
    assert found.undecided == ()


def test_one_wrong_value_of_many_is_seen() -> None:
    def changed(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[1, 2] *= 1.5
        return gradient

    assert [item.name for item in sought({"layers.3.weight": changed}).wrong] == ["layers.3.weight"]


def test_several_are_told_apart() -> None:
    names = ["layers.2.weight", "layers.2.bias", "layers.39.weight"]
    found = sought(dict.fromkeys(names, lambda gradient: -gradient))
    assert sorted(item.name for item in found.wrong) == sorted(names)


def test_where_many_are_wrong_enough_are_named() -> None:
    names = [f"layers.{number}.weight" for number in range(40)]
    found = sought(dict.fromkeys(names, lambda gradient: 0.5 * gradient))
    assert len(found.wrong) == MOST_NAMED
    assert {item.name for item in found.wrong} <= set(names)


def test_lost_gradients_do_not_keep_wrong_ones_from_being_named() -> None:
    lost = [f"layers.{number}.weight" for number in range(MOST_NAMED)]
    found = sought({**dict.fromkeys(lost, lambda gradient: None), "layers.20.bias": lambda gradient: 2 * gradient})
    assert sorted(item.name for item in found.wrong) == sorted([*lost, "layers.20.bias"])
    assert found.undecided == ()


class Edge(nn.Module):
    """A ReLU at its kink, whose derivative nobody can tell, beside a parameter that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.kink = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return (self.smooth**2 + self.kink.relu() - 0.3 * self.kink).sum()


def test_a_kink_is_neither_right_nor_wrong() -> None:
    found = sought({}, Edge())
    assert (found.wrong, found.groups, found.undecided) == ((), (), ("kink",))
