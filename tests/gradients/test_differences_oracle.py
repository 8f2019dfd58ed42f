"""The derivative by differences is right where it is known, and says how far it can be trusted where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from reference.oracle.differences import Derivative, derivative, moved, rounding_noise

STEP = 1e-5


def along(loss: Callable[[], torch.Tensor], tensor: torch.Tensor, direction: torch.Tensor) -> Derivative:
    def value() -> float:
        return float(loss().detach())

    at_rest = value()
    return derivative(value, [tensor], [direction], STEP, at_rest, rounding_noise(value, [tensor]))


def point(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda x: (x**3).sum(), 3 * 4.0 * 1.0 + 3 * 9.0 * -0.5),
        (lambda x: x.prod(), -3.0 * 1.0 + 2.0 * -0.5),
        (lambda x: x.exp().sum(), 7.38905609893065 * 1.0 + 0.049787068367863944 * -0.5),
        (lambda x: (0 * x).sum(), 0.0),
    ],
)
def test_derivatives_that_are_known(loss: Callable[[torch.Tensor], torch.Tensor], expected: float) -> None:
    x = point(2.0, -3.0)
    found = along(lambda: loss(x), x, point(1.0, -0.5))
    assert found.error < 1e-7
    assert abs(found.value - expected) <= max(found.error, 1e-9)


def test_a_network_agrees_with_autograd_within_the_error() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()
    given = torch.randn(3, 5, dtype=torch.float64)
    layers(given).square().sum().backward()
    for parameter in layers.parameters():
        assert parameter.grad is not None
        direction = torch.randn_like(parameter)
        found = along(lambda: layers(given).square().sum(), parameter, direction)
        assert abs(found.value - float((parameter.grad * direction).sum())) <= 4 * found.error
        assert found.error <= 1e-6 * abs(found.value)


@pytest.mark.parametrize("offset", [0.0, 0.1 * STEP, 0.3 * STEP, 0.6 * STEP, 0.9 * STEP])
def test_a_kink_on_the_way_makes_the_error_as_large_as_the_doubt(offset: float) -> None:
    # To the left the slope is 0, to the right 1; autograd says one of both.
    x = point(-offset)
    found = along(lambda: x.relu().sum(), x, point(1.0))
    assert found.error > 0.05
    assert abs(found.value - (0.0 if offset else 0.5)) <= 4 * found.error


def test_a_jump_on_the_way_makes_the_error_large() -> None:
    x = point(0.2 * STEP)
    found = along(lambda: (x > 0).double().sum() + x.sum(), x, point(1.0))
    assert found.error > 1


def test_what_cannot_be_evaluated_has_no_derivative() -> None:
    x = point(0.0)
    assert along(lambda: x.log().sum(), x, point(1.0)).error == float("inf")


def test_rounding_is_measured() -> None:
    x = torch.tensor([1.1, -0.7, 30.0])
    assert 0 < rounding_noise(lambda: float(x.sum()), [x]) < 1e-4
    assert rounding_noise(lambda: 1.0, [x]) == 0


def test_what_is_moved_is_put_back_bit_by_bit() -> None:
    x, kept = point(0.1, 1e-30), point(0.1, 1e-30)
    with moved([x], [point(1.0, 1.0)], 0.3):
        assert not torch.equal(x, kept)
    assert torch.equal(x, kept)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -2 * gradient


def test_a_wrong_backward_pass_does_not_deceive_it() -> None:
    x = point(1.0).requires_grad_()
    _Doubled.apply(x).sum().backward()
    assert x.grad is not None
    found = along(lambda: _Doubled.apply(x).sum(), x, point(1.0))
    assert (float(x.grad), round(found.value, 6)) == (-2.0, 2.0)
