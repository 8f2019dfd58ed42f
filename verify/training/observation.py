"""A training step on a batch of clips, with the oracle's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle.training import one_frame_model
from verify.clips.batch import batch_differences, batch_of, frames_of_images, moved_by_rounding
from verify.clips.capture import captured_output
from verify.clips.case import Training
from verify.clips.run import backward, call, gathered, gradients_of, loss_of_target, loss_value, model_of
from verify.clips.stages import Outputs, all_tensors, pairs, read_stages
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.tolerance import distance, tolerances
from verify.training.encoding import Encoding, watched_encodings


@dataclass(frozen=True)
class GradientAgreement:
    """How one parameter's gradient compares with the oracle's."""

    name: str
    #: Whether a gradient came, and whether it should have; one of nothing but zeros is none.
    got: bool
    expected: bool
    #: How far apart they are at most, and how far they may be.
    apart: float = 0.0
    tolerance: float = 0.0
    #: Euclidean norms.
    expected_norm: float = 0.0
    got_norm: float = 0.0
    #: What of the expected gradient is in the one that came: 1 where they are equal.
    share: float = 1.0


@dataclass(frozen=True)
class Trained:
    """A training step on a batch of clips, with the oracle's."""

    case: Training
    stages: int
    misfit: str | None
    #: For each stage and step its tensors, and those of the oracle.
    outputs: tuple[tuple[Outputs, ...], ...]
    expected: tuple[tuple[Outputs, ...], ...]
    #: How far values may lie apart, by tensor.
    tolerances: Mapping[str, float]
    encodings: tuple[Encoding, ...]
    #: The frame that each image belongs to.
    frames: Mapping[int, int]
    #: Where the batch was changed.
    changed: tuple[str, ...]
    printed: str
    #: Why there is no loss, or no gradient.
    failure: Violation | None
    loss: float = 0.0
    expected_loss: float = 0.0
    loss_tolerance: float = 0.0
    gradients: tuple[GradientAgreement, ...] = ()

    def require_gradients(self) -> None:
        """Raise the violation because of which there is no loss or no gradient, if there is one."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)


def oracle_gradients(
    model: nn.Module, batch: Any, loss: Any
) -> tuple[tuple[tuple[Outputs, ...], ...], float, dict[str, torch.Tensor | None]]:
    """The oracle's outputs, loss and gradients; the model's own are cleared."""
    model.zero_grad(set_to_none=True)
    stages = gathered(model, batch)
    outputs = all_tensors(read_stages(stages))
    value = loss_value(loss, stages, one_frame_model(model), batch)
    value.backward()
    progress()
    gradients = gradients_of(model)
    model.zero_grad(set_to_none=True)
    return outputs, float(value.detach()), gradients


def _compared(
    got: Mapping[str, torch.Tensor | None],
    right: Mapping[str, torch.Tensor | None],
    moved: Mapping[str, torch.Tensor | None],
) -> tuple[GradientAgreement, ...]:
    known = {name: gradient for name, gradient in right.items() if gradient is not None}
    zeros = {name: torch.zeros_like(gradient) for name, gradient in known.items()}
    others = {name: zeros[name] if (value := moved[name]) is None else value for name in known}
    allowed = tolerances([(known, others)])
    compared = []
    for name, gradient in got.items():
        expected = right.get(name)
        if gradient is None or expected is None:
            compared.append(GradientAgreement(name, gradient is not None, expected is not None))
            continue
        norm = float(expected.norm())
        compared.append(
            GradientAgreement(
                name,
                True,
                True,
                distance(expected, gradient),
                allowed[name],
                norm,
                float(gradient.norm()),
                float((gradient * expected).sum()) / norm**2,
            )
        )
    return tuple(compared)


def train_clip(rank: int, world_size: int, target: Target, case: Training) -> Trained:
    """Run one training step on a case's batch, and the oracle's."""
    with sam3_on_cpu():
        model, batch, loss = model_of(target, case), batch_of(case), loss_of_target(target, case)
        before = copy.deepcopy(batch)
        progress()
        torch.manual_seed(case.seed)
        with watched_encodings(model, batch.img_batch) as encodings, captured_output() as written:
            returned = call(model, batch)
            printed = written()
        stages = read_stages(returned)
        # Matching and losses read targets, so that what they were before the forward is what is compared.
        changed = batch_differences(before, batch)
        failure, value, gradients = None, 0.0, {}
        outputs = all_tensors(stages)
        try:
            scalar = loss_value(loss, returned, model, batch)
            backward(scalar, batch)
            value, gradients = float(scalar.detach()), gradients_of(model)
        except Violation as violation:
            failure = violation
        misfit = stages.misfit
        del returned, stages
        clean = batch_of(case)
        right, right_loss, right_gradients = oracle_gradients(model, clean, loss)
        moved, moved_loss, moved_gradients = oracle_gradients(model, moved_by_rounding(clean), loss)
        scalars = ({"loss": torch.tensor(right_loss)}, {"loss": torch.tensor(moved_loss)})
        return Trained(
            case=case,
            stages=len(outputs),
            misfit=misfit,
            outputs=outputs,
            expected=right,
            tolerances=tolerances(pairs(right, moved)),
            encodings=tuple(encodings),
            frames=frames_of_images(before),
            changed=changed,
            printed=printed,
            failure=failure,
            loss=value,
            expected_loss=right_loss,
            loss_tolerance=tolerances([scalars])["loss"],
            gradients=_compared(gradients, right_gradients, moved_gradients),
        )
