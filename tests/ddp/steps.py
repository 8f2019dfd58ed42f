"""A few steps of distributed training at toy width, as each rank of a group runs them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from fixtures.ranks import progress
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import build_toy
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.weights import perturb_weights
from reference.oracle.training import CORE_LOSS, frame_by_frame
from reference.recipe import loss as losses


@dataclass(frozen=True)
class Training:
    """What is trained on what; the clip of rank r is ``clips[r]``."""

    builder: str
    clips: tuple[ClipSpec, ...]
    segmentation: bool = False
    tracker: bool = False
    loss: str = "clip_loss"
    masks: bool = False
    semantic: bool = False
    steps: int = 3


@dataclass(frozen=True)
class Trained:
    """What a rank saw: the loss of each step, and how the last step's gradients compare."""

    losses: list[float]
    #: Names of the parameters without gradient.
    unused: frozenset[str]
    #: Largest difference, over the largest value, between DDP's gradients and the ranks' mean taken frame by frame.
    off_the_mean: float
    #: Largest difference, over the largest value, between this rank's gradients and those of rank 0.
    off_rank_0: float


def symbol(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def off(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value; gradients that all but cancel count as 0.01.

    Terms of a gradient are about ten here, and float32 keeps their sum to 1e-6: below, there are no digits to compare.
    """
    return float((got - expected).abs().max()) / max(float(expected.abs().max()), 0.01)


def train(rank: int, world_size: int, training: Training) -> Trained:
    """Train one rank's copy; every step sees the same clip, and no optimiser moves the weights."""
    torch.set_num_threads(1)
    model = build_toy(
        symbol(training.builder),
        eval_mode=False,
        enable_segmentation=training.segmentation,
        enable_inst_interactivity=training.tracker,
    ).model
    perturb_weights(model)
    criterion = getattr(losses, training.loss)(training.masks, training.semantic)
    batch = make_clip(training.clips[rank])
    progress()
    seen = []
    with sam3_on_cpu():
        wrapped = DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
        for _ in range(training.steps):
            model.zero_grad()
            value = criterion(wrapped(batch), [model.back_convert(target) for target in batch.find_targets])[CORE_LOSS]
            value.backward()
            seen.append(value.item())
            progress()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        off_the_mean = off_rank_0 = 0.0
        if training.loss == "clip_loss":
            alone = frame_by_frame(model, batch, criterion).gradients
            for name, gradient in gradients.items():
                frames_mean = alone[name]
                mean = torch.zeros_like(model.get_parameter(name))
                if frames_mean is not None:
                    mean += frames_mean / len(batch.find_inputs)
                distributed.all_reduce(mean)
                first = torch.zeros_like(mean) if gradient is None else gradient.clone()
                distributed.broadcast(first, 0)
                got = torch.zeros_like(mean) if gradient is None else gradient
                off_the_mean = max(off_the_mean, off(got, mean / world_size))
                off_rank_0 = max(off_rank_0, off(got, first))
    unused = frozenset(name for name, gradient in gradients.items() if gradient is None)
    return Trained(seen, unused, off_the_mean, off_rank_0)
