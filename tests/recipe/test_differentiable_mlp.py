"""Training through modules whose forward calls an inference-only kernel, on stand-ins for both."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from reference.recipe.differentiable_mlp import fused_kernel, make_differentiable
from verify.clips.run import private_copy

#: How often the stand-in for the kernel has run.
runs = [0]


def kernel(activation: Any, linear: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """Stand in for the kernel: for inference alone, in bfloat16 whatever it is given, on detached weights."""
    if torch.is_grad_enabled():
        raise ValueError("not with gradients")
    runs[0] += 1
    weight, bias, half = (given.detach().to(torch.bfloat16) for given in (linear.weight, linear.bias, rows))
    if isinstance(activation, type):
        activation = activation()
    with torch.autocast(rows.device.type, enabled=False):
        return activation(F.linear(half, weight, bias))


class FusedMlp(nn.Module):
    """An MLP whose first half is computed by the kernel."""

    def __init__(self, activation: type[nn.Module] = nn.GELU, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(6, 10), activation(), nn.Linear(10, 6)
        self.norm, self.drop = nn.LayerNorm(10), nn.Dropout(drop)

    def forward(self, rows: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        hidden = kernel(type(self.act), self.fc1, rows)
        return scale * self.fc2(self.norm(self.drop(hidden)))


class PlainMlp(FusedMlp):
    """The same MLP as autograd computes it."""

    def forward(self, rows: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return scale * self.fc2(self.norm(self.drop(self.act(self.fc1(rows)))))


class Tower(nn.Module):
    """Blocks with MLPs, each of them checkpointed on request."""

    def __init__(self, mlp: type[FusedMlp], **settings: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(**settings) for _ in range(2))
        self.reentrant: bool | None = None

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            inner = block(rows) if self.reentrant is None else checkpoint(block, rows, use_reentrant=self.reentrant)
            rows = rows + inner
        return rows


def towers(**settings: Any) -> tuple[Tower, Tower]:
    """Make a tower that has been made differentiable, and a plain one of the same weights."""
    torch.manual_seed(0)
    treated = Tower(FusedMlp, **settings)
    plain = Tower(PlainMlp, **settings)
    plain.load_state_dict(treated.state_dict())
    assert make_differentiable(treated, kernel) == ("blocks.0", "blocks.1")
    return treated, plain


def rows(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def gradients(model: nn.Module, given: torch.Tensor) -> list[torch.Tensor]:
    """Give the output, and the gradients of its squares in the input and in all parameters."""
    torch.manual_seed(2)
    out = model(given)
    found = torch.autograd.grad(out.float().square().sum(), [given, *model.parameters()])
    return [out.detach(), *found]


def assert_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def autocast(dtype: torch.dtype | None) -> Any:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


@pytest.fixture(autouse=True)
def _no_runs() -> Iterator[None]:
    runs[0] = 0
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (None, torch.float32),
        (None, torch.float64),
        (None, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_plain_autograd(
    activation: type[nn.Module], training: bool, precision: torch.dtype | None, dtype: torch.dtype
) -> None:
    treated, plain = (tower.to(dtype).train(training) for tower in towers(activation=activation, drop=0.5))
    with autocast(precision):
        assert_equal(gradients(treated, rows(dtype)), gradients(plain, rows(dtype)))
    assert runs[0] == 0
    assert all(bool(gradient.any()) for gradient in gradients(treated.float(), rows())[1:])


def test_without_the_treatment_nothing_trains_and_without_autocast_nothing_runs() -> None:
    untreated = Tower(FusedMlp)
    with pytest.raises(ValueError, match="not with gradients"):
        untreated(rows())
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        untreated.eval()(rows())


@pytest.mark.parametrize(
    ("training", "precision", "dtype", "uses"),
    [
        (False, torch.bfloat16, torch.float32, True),
        (False, torch.bfloat16, torch.bfloat16, True),
        (False, None, torch.bfloat16, True),
        (False, None, torch.float32, False),
        (False, None, torch.float64, False),
        (False, torch.float16, torch.float32, False),
        (True, torch.bfloat16, torch.float32, False),
        (True, None, torch.bfloat16, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_inference_uses_the_kernel_where_it_computes_what_is_asked(
    training: bool, precision: torch.dtype | None, dtype: torch.dtype, uses: bool, without: Any
) -> None:
    treated, plain = (tower.to(dtype).train(training) for tower in towers())
    with without(), autocast(precision):
        assert_equal([treated(rows(dtype))], [plain(rows(dtype))])
    assert runs[0] == (2 if uses else 0)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=str)
def test_checkpointing_changes_nothing(reentrant: bool, precision: torch.dtype | None) -> None:
    found = []
    for tower in towers(drop=0.5):
        tower.reentrant = reentrant
        given = rows()
        torch.manual_seed(2)
        with autocast(precision):
            tower.train()(given).float().square().sum().backward()
        found.append([given.grad, *(parameter.grad for parameter in tower.parameters())])
    assert_equal(*found)
    assert runs[0] == 0


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, private_copy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "private copy", "pickle"],
)
def test_a_copy_is_trained_alike_and_by_itself(copied: Any) -> None:
    treated, plain = towers()
    other = copied(treated)
    assert all(type(one) is type(two) for one, two in zip(treated.modules(), other.modules(), strict=True))
    assert_equal(gradients(other, rows()), gradients(plain, rows()))
    with torch.no_grad():
        other.blocks[0].fc1.weight.zero_()
    other(rows()).sum().backward()
    assert all(parameter.grad is not None for parameter in other.parameters())
    assert all(parameter.grad is None for parameter in treated.parameters())
    assert_equal(gradients(treated, rows()), gradients(plain, rows()))


def test_names_classes_and_other_models_stay_as_they_were() -> None:
    treated, plain = towers()
    block = treated.blocks[0]
    assert list(treated.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in treated.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert isinstance(block, FusedMlp)
    assert repr(treated) == repr(Tower(FusedMlp))
    assert type(block) is type(treated.blocks[1])
    with pytest.raises(ValueError, match="not with gradients"):
        FusedMlp()(rows())


def test_arguments_and_hooks_of_the_module_and_its_layers_are_kept() -> None:
    treated, plain = (tower.blocks[0] for tower in towers())
    assert torch.equal(treated(rows(), scale=3.0), plain(rows(), scale=3.0))
    seen = []
    for layer in (treated, treated.fc1):
        layer.register_forward_hook(lambda module, given, out: seen.append(module))
    treated(rows())
    assert seen == [treated.fc1, treated]


def test_only_what_calls_the_kernel_is_changed_and_only_once() -> None:
    model = nn.ModuleDict({"fused": FusedMlp(), "plain": PlainMlp(), "scripted": torch.jit.script(nn.Linear(2, 2))})
    assert make_differentiable(model, kernel) == ("fused",)
    assert type(model["plain"]) is PlainMlp
    changed = type(model["fused"])
    assert make_differentiable(model, kernel) == ()
    assert type(model["fused"]) is changed


def test_a_kernel_that_the_package_lacks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam3.perflib.fused", None)
    assert fused_kernel() is None
    model = Tower(FusedMlp)
    assert make_differentiable(model) == ()
    assert type(model.blocks[0]) is FusedMlp


def test_the_packages_own_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("sam3.perflib.fused")
    module.addmm_act = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sam3.perflib.fused", module)
    assert make_differentiable(Tower(FusedMlp)) == ("blocks.0", "blocks.1")
