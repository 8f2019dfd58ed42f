"""Training through a kernel that is for inference alone: SAM 3.1 computes the first half of its ViT's MLPs with one.

The kernel, ``sam3.perflib.fused.addmm_act(activation, linear, input)``, computes ``activation(linear(input))`` in
bfloat16 whatever it is given, on detached weights, and raises where gradients are on. Taking away the check alone
would leave the weights of each MLP's first layer without a gradient. Here the modules of one model get a call in its
place that can be differentiated; classes and functions of sam3 stay as they are. Earlier versions have no such kernel,
and nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

#: Takes an activation (a class of modules or a function), a linear layer and its input [..., width].
Kernel = Callable[[Any, nn.Linear, torch.Tensor], torch.Tensor]


def fused_kernel() -> Kernel | None:
    """Give the installed package's kernel, or None where it has none."""
    try:
        from sam3.perflib.fused import addmm_act
    except ImportError:
        return None
    return addmm_act


def make_differentiable(model: nn.Module, kernel: Kernel | None = None) -> tuple[str, ...]:
    """Let the modules of ``model`` whose forward calls the kernel be trained, in any precision.

    Their class becomes a subclass that differs in that call alone; parameters, their names and all else stay, and
    copies of the model and pickled ones are trained alike. To be called once, at any time after the model is made.

    Args:
        kernel: by default the installed package's, see ``fused_kernel``.

    Returns:
        The names of these modules; none where nothing calls the kernel.
    """
    kernel = kernel or fused_kernel()
    names = []
    for name, module in model.named_modules():
        cls: Any = type(module)
        if kernel is not None and _called_as(kernel, cls):
            module.__class__ = _differentiable(cls, kernel)
            names.append(name)
    return tuple(names)


def _called_as(kernel: Kernel, cls: Any) -> tuple[str, ...]:
    """Give the global names by which the forward of a class refers to the kernel."""
    forward = getattr(cls, "forward", None)
    if not isinstance(forward, FunctionType):  # a scripted module has none of its own
        return ()
    return tuple(name for name in forward.__code__.co_names if forward.__globals__.get(name) is kernel)


@cache
def _differentiable(cls: Any, kernel: Kernel) -> Any:
    """Derive a class of modules whose forward is that of ``cls``, with ``_activated`` where it calls the kernel."""
    plain = cls.forward
    names = {**plain.__globals__, **dict.fromkeys(_called_as(kernel, cls), partial(_activated, kernel))}
    forward = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
    forward.__kwdefaults__ = plain.__kwdefaults__

    def reduce(module: nn.Module) -> tuple[Any, ...]:  # a class made here is found by the one it is made of
        return _empty, (cls, kernel), module.__getstate__()

    own = {"forward": forward, "__reduce__": reduce, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), own)


def _empty(cls: Any, kernel: Kernel) -> Any:
    """Make a module without its state, which a copy or a pickled one is filled with."""
    derived = _differentiable(cls, kernel)
    return derived.__new__(derived)


def _activated(kernel: Kernel, activation: Any, linear: nn.Linear, mat1: torch.Tensor) -> torch.Tensor:
    """Compute ``activation(linear(mat1))``, with the kernel where that is what it computes."""
    if _is_for_kernel(linear, mat1):
        return kernel(activation, linear, mat1)
    if isinstance(activation, type):
        activation = activation()
    return activation(linear(mat1))


def _is_for_kernel(linear: nn.Linear, mat1: torch.Tensor) -> bool:
    """Tell whether this is inference, and asked for in bfloat16.

    In training mode a pass without gradients is no inference: reentrant checkpointing makes one, and computes it again
    with gradients.
    """
    if torch.is_grad_enabled() or linear.training:
        return False
    device = mat1.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) is torch.bfloat16 and mat1.dtype is not torch.float64
    return mat1.dtype is linear.weight.dtype is torch.bfloat16
