"""What a target's forward keeps, in which precision it computes, and how much memory it takes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of
from verify.clips.case import Training
from verify.clips.run import backward, call, gathered, loss_of_target, loss_value, model_of
from verify.clips.stages import Outputs, all_tensors, read_stages
from verify.target.naming import Target

_HALF = (torch.bfloat16, torch.float16)
#: Clip lengths whose memory is compared.
LENGTHS = (1, 2, 4)


@dataclass(frozen=True)
class Kept:
    """What is left of calls that are over."""

    #: Names of outputs whose memory outlives them.
    alive: tuple[str, ...]
    #: Bytes of all tensors after the second step, and after the fourth.
    bytes_after: tuple[int, int]
    #: The first clip's outputs before and after another clip was run.
    before: tuple[tuple[Outputs, ...], ...]
    after: tuple[tuple[Outputs, ...], ...]


def _live_bytes() -> int:
    """Bytes of all tensors that Python can reach, each storage counted once."""
    gc.collect()
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        if type(item) in (torch.Tensor, nn.Parameter) and item.layout is torch.strided:
            storage = item.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def _watch(value: Any, name: str, skip: set[int], found: dict[str, StorageWeakRef]) -> None:
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        if storage.nbytes() and storage._cdata not in skip:
            found[name] = StorageWeakRef(storage)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _watch(item, f"{name}.{key}", skip, found)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _watch(item, f"{name}[{number}]", skip, found)


def _own_storages(model: nn.Module, batch: Any) -> set[int]:
    """What outlives outputs by right: the model's parameters, buffers and encodings of positions, and the batch."""
    mine: list[Any] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        for value in vars(module).values():
            mine += (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
    for given in (*batch.find_inputs, *batch.find_targets):
        mine += list(vars(given).values())
    tensors = [item for item in [*mine, batch.img_batch] if isinstance(item, torch.Tensor)]
    return {item.untyped_storage()._cdata for item in tensors}


def keep_clip(rank: int, world_size: int, target: Target, case: Training) -> Kept:
    """Train four steps on a case's clip, and tell what is left of them."""
    with sam3_on_cpu():
        model, loss = model_of(target, case), loss_of_target(target, case)
        other = replace(case, seed=case.seed + 1)
        with torch.no_grad():
            before = all_tensors(read_stages(call(model, batch_of(case))))
        counted: list[int] = []
        alive: tuple[str, ...] = ()
        own = _own_storages(model, batch_of(case))
        for step in range(4):
            batch = batch_of(other)
            own_batch = _own_storages(nn.Module(), batch)
            returned = call(model, batch)
            watched: dict[str, StorageWeakRef] = {}
            for number, steps in enumerate(read_stages(returned).steps):
                _watch(list(steps), f"stage {number}", own | own_batch, watched)
            value = loss_value(loss, returned, model, batch)
            backward(value, batch)
            model.zero_grad(set_to_none=False)
            del returned, value, batch, steps
            if step in (1, 3):
                counted.append(_live_bytes())
                alive = tuple(name for name, reference in watched.items() if not reference.expired())
            watched.clear()
        with torch.no_grad():
            after = all_tensors(read_stages(call(model, batch_of(case))))
        return Kept(alive, (counted[0], counted[-1]), before, after)


class _HalfPrecision(TorchDispatchMode):
    """Lists the places in the code where an operation gives a result in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(value, torch.Tensor) and value.dtype in _HALF:
                self.places.setdefault(_place(), f"{func} gives {str(value.dtype).removeprefix('torch.')}")
        return result


def _place() -> str:
    """Where the code stands, torch's own and this module's left out."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        code = frame.f_code
        passing = code.co_name in ("__torch_function__", "__torch_dispatch__")  # a mode that is on, as on a CPU
        if not passing and code.co_filename != __file__ and f"{os.sep}torch{os.sep}" not in code.co_filename:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name}"


@dataclass(frozen=True)
class Precision:
    """Where half precision appears in a forward in full precision, and where in sam3's one-frame forward."""

    places: Mapping[str, str]
    expected: Mapping[str, str]
    #: Outputs in half precision.
    outputs: tuple[str, ...]


def watch_precision(rank: int, world_size: int, target: Target, case: Training) -> Precision:
    """Run the forward in training mode on float32 images, without autocast."""
    with sam3_on_cpu():
        model = model_of(target, case)
        with _HalfPrecision() as mine:
            stages = read_stages(call(model, batch_of(case)))
        with _HalfPrecision() as its:
            gathered(model, batch_of(case))
        outputs = tuple(
            f"stage {number}: {name}"
            for number, steps in enumerate(all_tensors(stages))
            for step in steps
            for name, value in step.items()
            if value.dtype in _HALF
        )
        return Precision(mine.places, its.places, outputs)


@contextmanager
def _saved_bytes() -> Iterator[dict[int, tuple[Any, int]]]:
    """Collect the storages that a graph keeps for its backward pass; held, so that no address comes twice."""
    storages: dict[int, tuple[Any, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def measure_memory(rank: int, world_size: int, target: Target, case: Training) -> dict[int, int]:
    """Bytes that the graph of a forward in training keeps, by the clip's length; parameters and the batch left out."""
    found = {}
    with sam3_on_cpu():
        model = model_of(target, case)
        for frames in LENGTHS:
            batch = batch_of(replace(case, frames=frames))
            own = _own_storages(model, batch)
            with _saved_bytes() as storages:
                returned = call(model, batch)
            found[frames] = sum(size for key, (_, size) in storages.items() if key not in own)
            del returned, storages
    return found
