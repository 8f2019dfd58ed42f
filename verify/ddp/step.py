"""The target's model, loss and training step, as data-parallel training uses them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from sam3.model.data_misc import BatchedDatapoint
from torch import nn

from fixtures.ranks import progress
from fixtures.toy.build import build_toy
from fixtures.toy.device import gpus_here
from fixtures.toy.weights import perturb_weights
from reference.oracle.training import core_loss
from verify.clips.batch import on_device_of
from verify.target.loading import load
from verify.target.naming import Target
from verify.tensors.precision import computing_in, without_tf32


def trained_model(target: Target, segmentation: bool) -> nn.Module:
    """Build the target's model for training at toy width, with perturbed weights: the same in every process.

    Raises:
        CannotShrink: where its builder fails or its model does not get small.
    """
    model = build_toy(load(target).builder, eval_mode=False, enable_segmentation=segmentation).model
    return perturb_weights(model).train()


def criterion_of(target: Target, masks: bool) -> Any:
    """Make the loss that the target is trained with; with masks on instances and, where it has it, on semantics.

    sam3's configuration has the two together: an output without loss is what another pairing is for.
    """
    loaded = load(target)
    semantic = {"semantic": masks} if "semantic" in inspect.signature(loaded.loss).parameters else {}
    return loaded.make_loss(masks=masks, **semantic)


def training_step(
    target: Target,
    wrapped: nn.Module,
    criterion: Any,
    batch: BatchedDatapoint,
    precision: torch.dtype = torch.float32,
) -> float:
    """One forward, as the target's own training calls it, loss and backward; gives the loss.

    What it draws at random, such as another brightness of its images, it draws alike wherever the step is taken.

    Args:
        precision: of the autocast that forward and loss are under; none for float32.
    """
    model: Any = wrapped.module
    batch = on_device_of(model, batch)
    call = load(target).train_step
    with torch.random.fork_rng(gpus_here()), without_tf32():  # in the backward pass, too
        torch.manual_seed(0)
        with computing_in(precision):
            outputs = wrapped(batch) if call is None else call(wrapped, batch)
            progress()
            loss = core_loss(criterion(outputs, [model.back_convert(found) for found in batch.find_targets]))
        loss.backward()
    progress()
    return float(loss.detach())
