"""Computing in float64 whatever precision code asks for, so that a difference of losses is not drowned in rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_NARROW = (torch.float32, torch.bfloat16, torch.float16)
#: Methods that name a precision by their own name.
_CASTS = (torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half)


class _Widened(TorchFunctionMode):
    """Puts float64 where a narrower precision is asked for."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _CASTS:
            return torch.Tensor.double(args[0])
        args = tuple(torch.float64 if isinstance(arg, torch.dtype) and arg in _NARROW else arg for arg in args)
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _NARROW:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def in_double() -> Iterator[None]:
    """Compute in float64: what is made without a precision, and what is made or cast in a narrower one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)


def widened(value: Any) -> Any:
    """Copy a batch, or a part of it, with its floating tensors in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: widened(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {key: widened(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(widened(item) for item in value)
    return value
