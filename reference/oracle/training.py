"""What training on a clip has to come to: sam3's own one-frame forward on each frame alone, summed.

Shares no code with any loop over frames: each frame is cut out of the batch, made a clip of its own and given to
``Sam3Image.forward``, which takes one frame and knows of no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from sam3.model.data_misc import BatchedDatapoint
from sam3.model.sam3_image import Sam3Image
from torch import nn

#: The key of the value that training minimises, among those that a loss of sam3 returns.
CORE_LOSS = "core_loss"

#: A loss as sam3's: stages' outputs and converted targets to named values.
Loss = Callable[[Any, list[Any]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class FrameByFrame:
    """What sam3's one-frame forward gives for each frame of a clip, taken alone."""

    #: For each frame, the outputs of its steps, without gradient.
    outputs: tuple[list[dict[str, Any]], ...]
    #: Each frame's loss, a scalar without gradient; empty without a loss.
    losses: tuple[torch.Tensor, ...]
    #: For each parameter the sum over frames of its gradients, None where no frame reaches it; empty without a loss.
    gradients: dict[str, torch.Tensor | None]

    @property
    def loss(self) -> torch.Tensor:
        """The sum of the frames' losses; a loss that averages over a clip's frames gives this over their number."""
        return torch.stack(self.losses).sum()


def one_frame(batch: BatchedDatapoint, frame: int) -> BatchedDatapoint:
    """Cut frame ``frame`` out of ``batch``, as a batch of one-frame clips that sam3's own forward takes.

    It holds the frame's images alone (one a clip), its stage with image ids that point to them, its targets and
    all texts. Targets are shared with ``batch``; stage and lists are not.
    """
    stage = batch.find_inputs[frame]
    kept, renumbered = torch.unique(stage.img_ids, return_inverse=True)
    return replace(
        batch,
        img_batch=batch.img_batch[kept.to(batch.img_batch.device)],
        find_text_batch=list(batch.find_text_batch),
        find_inputs=[replace(stage, img_ids=renumbered)],
        find_targets=[batch.find_targets[frame]],
        find_metadatas=[batch.find_metadatas[frame]],
    )


def detector_of(model: nn.Module) -> nn.Module:
    """Give the detector that a model is, or that it is wrapped around."""
    return next((module for module in model.modules() if isinstance(module, Sam3Image)), model)


def one_frame_model(model: nn.Module) -> Sam3Image:
    """Give sam3's image model over the very parts of ``model``, in its mode, without what its class changed.

    Where ``model`` is wrapped around a detector, over that one's parts.
    """
    plain = Sam3Image.__new__(Sam3Image)
    plain.__dict__.update(detector_of(model).__dict__)
    return plain


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    return value


def core_loss(value: Any) -> torch.Tensor:
    """What is differentiated of what a loss gives: its part of that name, or all of it where it has no parts."""
    return value[CORE_LOSS] if isinstance(value, Mapping) else value


def frame_by_frame(model: nn.Module, batch: BatchedDatapoint, loss: Loss | None = None) -> FrameByFrame:
    """Run sam3's one-frame forward on each frame of a batch of clips by itself.

    Args:
        model: a detector built of sam3's parts, in training or evaluation mode; its ``grad`` fields stay untouched.
        batch: clips of any length, as sam3's collator makes them.
        loss: where given, computed and differentiated frame by frame; it sees one stage at a time.
    """
    plain = one_frame_model(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    outputs, losses = [], []
    gradients: dict[str, torch.Tensor | None] = dict.fromkeys(trained) if loss is not None else {}
    for frame in range(len(batch.find_inputs)):
        alone = one_frame(batch, frame)
        with torch.set_grad_enabled(loss is not None):
            stages = plain.forward(alone)
            if loss is not None:
                value = core_loss(loss(stages, [plain.back_convert(alone.find_targets[0])]))
                found = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
                losses.append(value.detach())
                for name, gradient in zip(trained, found, strict=True):
                    if gradient is not None:
                        before = gradients[name]
                        gradients[name] = gradient if before is None else before + gradient
        outputs.append([_detached(step) for step in stages.output[0]])
    return FrameByFrame(tuple(outputs), tuple(losses), gradients)
