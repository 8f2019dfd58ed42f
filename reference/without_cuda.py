"""Running sam3 on a machine without CUDA: what it asks of a GPU by name is done on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode


class _OnCpu(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.backward and args[0].requires_grad:
            return self._backward(*args, **kwargs)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)

    def _backward(self, tensor: torch.Tensor, gradient: torch.Tensor | None = None, **kwargs: Any) -> None:
        """Stay in force in a backward pass: what is checkpointed is computed again there."""
        with self:  # a tensor would lead back here; the edge that it comes from does not
            torch.autograd.backward(get_gradient_edge(tensor), gradient, **kwargs)


def _cuda_is_asked_for_in_vain() -> bool:
    """Tell whether pinning fails, as it does without a driver; under a mode like ours, the caller's, it does not."""
    try:
        torch.empty(1).pin_memory()
    except RuntimeError:
        return True
    return False


def without_cuda() -> AbstractContextManager[Any]:
    """Make a context in which sam3 is built and run on the CPU; it does nothing where CUDA is there.

    sam3 0.1.4 allocates position encodings and decoder coordinates on ``cuda`` and pins a tensor in each call of its
    geometry encoder, whatever device the model is for. The context belongs to the calling thread.
    """
    if torch.cuda.is_available() or not _cuda_is_asked_for_in_vain():
        return nullcontext()
    return _OnCpu()
