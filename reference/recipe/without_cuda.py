"""Running sam3 on a machine without CUDA: what it asks of a GPU by name is done on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


def _works(request: Callable[[], Any]) -> bool:
    """Tell whether CUDA answers a request; under a mode like ours, the caller's, one without a driver is met, too."""
    try:
        request()
    except (RuntimeError, AssertionError):
        return False
    return True


def _unpinned(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
    return tensor


def _pin() -> Any:
    return torch.empty(1).pin_memory()


def without_cuda() -> AbstractContextManager[Any]:
    """Make a context in which sam3 is built and run on the CPU; it does nothing where CUDA is there.

    sam3 0.1.4 allocates position encodings and decoder coordinates on ``cuda`` and pins a tensor in each call of its
    geometry encoder, whatever device the model is for. The context belongs to the calling thread.
    """
    if torch.cuda.is_available() or (_works(_pin) and _works(lambda: torch.empty(1, device="cuda"))):
        return nullcontext()
    return _OnCpu()


def without_pinning() -> AbstractContextManager[Any]:
    """Make a context in which a model that has been built runs on the CPU; it does nothing where pinning works."""
    if torch.cuda.is_available() or _works(_pin):
        return nullcontext()
    return _OnCpu()


@contextmanager
def trainer_without_cuda() -> Iterator[None]:
    """Make a context in which sam3's Trainer runs on the CPU; it does nothing where CUDA is there.

    The Trainer's meter of memory resets CUDA's peak after each step, which fails without a driver. Its AMP is autocast
    for ``cuda``, whatever the accelerator, as is the part of sam3's decoder that turns it off: here both are the CPU's.
    Pinning is done without in the whole process, not by the mode above, which would be asked about every operation of
    a long run.
    """
    if torch.cuda.is_available():
        yield
        return
    pin, reset, autocast = torch.Tensor.pin_memory, torch.cuda.reset_peak_memory_stats, torch.amp.autocast

    def autocast_here(device_type: str, *args: Any, **kwargs: Any) -> torch.amp.autocast:
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    torch.Tensor.pin_memory = _unpinned  # type: ignore[method-assign,assignment]
    torch.cuda.reset_peak_memory_stats = lambda device=None: None
    torch.amp.autocast = autocast_here  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.Tensor.pin_memory = pin  # type: ignore[method-assign]
        torch.cuda.reset_peak_memory_stats = reset
        torch.amp.autocast = autocast  # type: ignore[misc]
