"""What an optimizer that was made before a training step changes in it, and what gets gradients past it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import nn

from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.forward import why_no_clip_forward
from verify.clips.run import backward, clip_loss, loss_of_target, model_of
from verify.target.models import construction
from verify.target.naming import Target

#: How far the step moves a parameter, in parts of its own size: far beyond a rounding step.
RATE = 0.1


@dataclass(frozen=True)
class Optimized:
    """A training step, with an optimizer made of the parameters that were there before it."""

    #: Parameters that got a gradient, and that the optimizer changed.
    trained: tuple[str, ...]
    changed: tuple[str, ...]
    #: Parameters that the forward has put in the place of those that the optimizer was given.
    replaced: tuple[str, ...]
    #: Tensors that get a gradient and are no parameters of the model: where they are, or their shape.
    unregistered: tuple[str, ...]
    #: Pairs of parameters over the same memory.
    overlapping: tuple[tuple[str, str], ...]


def leaves(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that a backward pass from ``value`` leaves gradients in."""
    pending, seen = [value.grad_fn], set()
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        pending += [earlier for earlier, _ in node.next_functions]


def _whereabouts(model: nn.Module, leaf: torch.Tensor) -> str:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if value is leaf:
                return f"{name}.{key}".lstrip(".")
    return f"a tensor of shape {list(leaf.shape)}"


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and last byte of a tensor, where its elements lie side by side."""
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size() - 1


def overlapping(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """Pairs of different parameters over the same memory; a parameter that two modules share is a single one."""
    spans = {name: _span(parameter) for name, parameter in model.named_parameters() if parameter.numel()}
    return tuple(
        (one, other)
        for one, other in combinations(spans, 2)
        if spans[one][0] <= spans[other][1] and spans[other][0] <= spans[one][1]
    )


def _scale(parameter: nn.Parameter) -> None:
    """Make a gradient as large as its parameter: a tiny one would be lost in rounding, and change nothing."""
    assert parameter.grad is not None
    largest = parameter.grad.abs().max()
    parameter.grad.mul_((parameter.detach().abs().max() + 1) / largest)


def optimize(rank: int, world_size: int, target: Target, case: Training) -> Optimized:
    """Make an optimizer, take a training step, and see what it has changed."""
    with sam3_on_cpu():
        # A copy of a model has its parameters apart.
        own = construction(target, tracker=False, segmentation=case.segmentation, eval_mode=False).model
        model, batch, loss = model_of(target, case), batch_of(case), loss_of_target(target, case)
        given = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(given, lr=RATE)
        value = clip_loss(loss, model, batch, one_by_one=why_no_clip_forward(target) is not None)
        backward(value, batch)
        now = dict(model.named_parameters())
        known, held = set(map(id, now.values())), set(map(id, given))
        trained = {name: item for name, item in now.items() if item.grad is not None and bool(item.grad.any())}
        before = {name: parameter.detach().clone() for name, parameter in now.items()}
        for parameter in trained.values():
            _scale(parameter)
        optimizer.step()
        return Optimized(
            trained=tuple(trained),
            changed=tuple(name for name, parameter in now.items() if not torch.equal(before[name], parameter)),
            replaced=tuple(name for name, item in now.items() if item.requires_grad and id(item) not in held),
            unregistered=tuple(
                _whereabouts(model, leaf) for leaf in leaves(value) if id(leaf) not in known and id(leaf) not in held
            ),
            overlapping=overlapping(own),
        )
