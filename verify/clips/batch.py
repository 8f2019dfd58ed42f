"""Batches of clips: made, moved, cut, reordered, and compared with what they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from sam3.model.data_misc import BatchedDatapoint
from torch import nn

from fixtures.synthetic.clips import make_clip
from verify.clips.case import Training
from verify.tensors.tolerance import perturbed


def batch_of(case: Training) -> Any:
    return make_clip(case.spec())


def _differences(before: Any, after: Any, name: str) -> Iterator[str]:
    if type(before) is not type(after):
        yield f"{name} was a {type(before).__name__} and is a {type(after).__name__}"
    elif isinstance(before, torch.Tensor):
        if before.shape != after.shape or before.dtype != after.dtype:
            yield f"{name} was {list(before.shape)} {before.dtype} and is {list(after.shape)} {after.dtype}"
        elif not torch.equal(before, after):
            yield f"{name} holds other values"
    elif dataclasses.is_dataclass(before):
        for field in dataclasses.fields(before):
            yield from _differences(getattr(before, field.name), getattr(after, field.name), f"{name}.{field.name}")
    elif isinstance(before, (list, tuple)):
        if len(before) != len(after):
            yield f"{name} had {len(before)} entries and has {len(after)}"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from _differences(one, other, f"{name}[{number}]")
    elif isinstance(before, Mapping):
        if before.keys() != after.keys():
            yield f"{name} had keys {sorted(before)} and has {sorted(after)}"
        for key in before.keys() & after.keys():
            yield from _differences(before[key], after[key], f"{name}[{key!r}]")
    elif before != after:
        yield f"{name} was {before!r} and is {after!r}"


def batch_differences(before: Any, after: Any) -> tuple[str, ...]:
    """Say where a batch differs from what it was, a sentence a place."""
    return tuple(_differences(before, after, "batch"))


def frames_of_images(batch: Any) -> dict[int, int]:
    """The frame that each image of a batch belongs to, by the stages' image ids."""
    return {
        image: frame
        for frame, stage in enumerate(batch.find_inputs)
        for image in torch.as_tensor(stage.img_ids).flatten().tolist()
    }


def permuted(batch: Any, order: Sequence[int]) -> Any:
    """Give a batch whose stage i is stage ``order[i]`` of ``batch``; images and texts stay where they are."""
    return dataclasses.replace(
        batch,
        find_inputs=[batch.find_inputs[frame] for frame in order],
        find_targets=[batch.find_targets[frame] for frame in order],
        find_metadatas=[batch.find_metadatas[frame] for frame in order],
    )


def moved_by_rounding(batch: Any) -> Any:
    return replace(batch, img_batch=perturbed(batch.img_batch))


def first_frames(batch: Any, frames: int) -> Any:
    return permuted(batch, range(min(frames, len(batch.find_inputs))))


def on_device_of(model: nn.Module, batch: BatchedDatapoint) -> BatchedDatapoint:
    device = next(model.parameters()).device
    if device.type == "cpu":
        return batch
    from sam3.model.utils.misc import copy_data_to_device

    return copy_data_to_device(batch, device)
