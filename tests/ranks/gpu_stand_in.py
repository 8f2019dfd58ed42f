"""Stand-ins for what a machine without a GPU lacks: tensors of one, and process groups on NCCL.

A tensor of the stand-in lies in ordinary memory and says that it is on ``cuda:0``. As on a GPU, it cannot be made an
array of NumPy, and not be computed with one of the CPU, but for a single number.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
#: What takes tensors of several devices.
_ACROSS = {
    torch.Tensor.copy_,
    torch._foreach_copy_,
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
}


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    def cpu(self, *args: Any) -> torch.Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.Tensor.as_subclass(self, torch.Tensor).clone()

    def as_subclass(self, cls: Any) -> Any:
        return self if cls is torch.Tensor else super().as_subclass(cls)  # what is no subclass is on a GPU all the same

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        moved, (rest, named) = _device_of(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            plain = torch.Tensor.as_subclass(self, torch.Tensor)
            values = plain.to(*rest, **named) if rest or named else plain
            return values.clone() if moved == "cpu" else values.as_subclass(OnGpu)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __deepcopy__(self, memo: Any) -> Any:
        if id(self) not in memo:
            copied = on_gpu(self.detach().clone())
            is_parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("sent as a tensor of a GPU: whoever reads it needs that GPU")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _assert_on_one_device(func, args, kwargs)
        return super().__torch_function__(func, types, args, kwargs or {})


def _assert_on_one_device(func: Any, args: Any, kwargs: Any) -> None:
    if func in _ACROSS:
        return
    given = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, torch.Tensor)]
    ours = [item for item in given if isinstance(item, OnGpu)]
    if ours and any(not isinstance(item, OnGpu) and item.dim() for item in given):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"
        )


def _device_of(args: Any, kwargs: Any) -> tuple[str | None, tuple[list[Any], dict[str, Any]]]:
    """Where a call of ``Tensor.to`` moves to, and its arguments without that."""
    given = [*args, *kwargs.values()]
    tensors = [item for item in given if isinstance(item, torch.Tensor)]
    devices = [torch.device(item).type for item in given if isinstance(item, (str, torch.device))]
    rest = [item for item in args if not isinstance(item, (str, torch.device, torch.Tensor, type(None)))]
    named = {name: item for name, item in kwargs.items() if name not in ("device", "other")}
    if tensors:
        named["dtype"] = tensors[0].dtype
    moved = devices[0] if devices else tensors[0].device.type if tensors else None
    return moved, (rest, named)


class _Making(TorchFunctionMode):
    """Makes what is asked for on a GPU on the stand-in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cuda) and not isinstance(args[0], OnGpu):
            moved, (rest, named) = _device_of(args[1:], kwargs)
            if moved == "cuda" or func is torch.Tensor.cuda:
                return on_gpu(func(args[0], *rest, **named) if rest or named else args[0].clone())
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = "cpu"
            made = func(*args, **kwargs)
            return tree_map(lambda item: on_gpu(item) if isinstance(item, torch.Tensor) else item, made)
        return func(*args, **kwargs)


def on_gpu(values: torch.Tensor) -> torch.Tensor:
    """Values as the stand-in's."""
    return values.as_subclass(OnGpu)


def tensors_on_gpu() -> AbstractContextManager[Any]:
    """Let the calling thread make on the stand-in what it asks for on a GPU."""
    return _Making()


_move = nn.Module.to


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """What ``Module.to`` does, which would fill the parameters there are: they get others, of the stand-in."""
    if _device_of(args, kwargs)[0] != "cuda":
        return _move(module, *args, **kwargs)
    parameters: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, OnGpu):
                there = nn.Parameter(on_gpu(parameter.data), parameter.requires_grad)
                part._parameters[name] = parameters.setdefault(id(parameter), there)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_gpu(buffer)
    return module


def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find a GPU; tensors are made there where a thread enters ``tensors_on_gpu``."""
    properties = SimpleNamespace(major=0, minor=0, name="stand-in", total_memory=0)
    for name, answer in {
        "is_available": True,
        "current_device": 0,
        "get_device_properties": properties,
        "get_rng_state": None,
        "set_rng_state": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor)
    monkeypatch.setattr(nn.Module, "to", _moved)
    monkeypatch.setattr(nn.Module, "cuda", lambda module, device=None: _moved(module, "cuda"))
