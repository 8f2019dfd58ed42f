"""Forwards alone, beside the oracle's: in training and evaluation mode, reordered, with a prompt changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle.training import one_frame_model
from verify.clips.batch import batch_of, first_frames, moved_by_rounding, permuted
from verify.clips.case import Training
from verify.clips.run import call, gathered, loss_of_target, loss_value, model_of
from verify.clips.stages import Outputs, all_tensors, pairs, read_stages
from verify.engine.finding import Violation
from verify.target.naming import Target
from verify.tensors.tolerance import tolerances


@dataclass(frozen=True)
class Detected:
    """What a forward gives in one mode of the model, and what the oracle does."""

    case: Training
    misfit: str | None
    outputs: tuple[tuple[Outputs, ...], ...]
    expected: tuple[tuple[Outputs, ...], ...]
    tolerances: Mapping[str, float]


def _detect(model: nn.Module, case: Training) -> Detected:
    with torch.no_grad():
        batch = batch_of(case)
        stages = read_stages(call(model, batch))
        clean = batch_of(case)
        right = all_tensors(read_stages(gathered(model, clean)))
        # Rounding is much the same in all frames: two of them tell what it comes to.
        few = moved_by_rounding(first_frames(clean, 2))
        moved = all_tensors(read_stages(gathered(model, few)))
    allowed = tolerances(pairs(right[: len(moved)], moved))
    return Detected(case, stages.misfit, all_tensors(stages), right, allowed)


def detect_clip(rank: int, world_size: int, target: Target, case: Training) -> dict[str, Detected]:
    """Run the forward in training mode, without gradient, and in evaluation, and the oracle; by the mode, in words."""
    with sam3_on_cpu():
        model = model_of(target, case)
        return {"in training": _detect(model.train(), case), "in evaluation": _detect(model.eval(), case)}


@dataclass(frozen=True)
class Evaluated:
    """A forward in evaluation, and the loss computed from what it returns."""

    detected: Detected
    #: Another clip of the same shape, which the same model is given next.
    next_clip: Detected
    #: Why there is no loss.
    failure: Violation | None
    loss: float
    expected_loss: float
    tolerance: float


def _match(plain: Any, step: dict[str, Any], target: Any) -> None:
    plain._compute_matching(step, plain.back_convert(target))


def evaluate_clip(rank: int, world_size: int, target: Target, case: Training) -> Evaluated:
    """Run the forward in evaluation mode, on a model built for training, and compute the validation loss."""
    with sam3_on_cpu(), torch.no_grad():
        model, loss = model_of(target, case).eval(), loss_of_target(target, case)
        detected = _detect(model, case)
        next_clip = _detect(model, replace(case, seed=case.seed + 1))
        batch = batch_of(case)
        failure, value = None, 0.0
        try:
            value = float(loss_value(loss, call(model, batch), model, batch))
        except Violation as violation:
            failure = violation
        batch, plain = batch_of(case), one_frame_model(model)
        right = float(loss_value(loss, gathered(model, batch, _match), plain, batch))
        off = float(loss_value(loss, gathered(model, moved_by_rounding(batch), _match), plain, batch))
        allowed = tolerances([({"loss": torch.tensor(right)}, {"loss": torch.tensor(off)})])
        return Evaluated(detected, next_clip, failure, value, right, allowed["loss"])


@dataclass(frozen=True)
class Reordered:
    """A clip as it is, and with its stages in another order."""

    case: Training
    #: Stage i of the second run is stage ``order[i]`` of the first.
    order: tuple[int, ...]
    first: tuple[tuple[Outputs, ...], ...]
    second: tuple[tuple[Outputs, ...], ...]
    tolerances: Mapping[str, float]


def reorder_clip(rank: int, world_size: int, target: Target, case: Training) -> Reordered:
    """Run the forward in training mode, without gradient, on a clip's stages in two orders."""
    with sam3_on_cpu(), torch.no_grad():
        model, batch = model_of(target, case), batch_of(case)
        draw = torch.Generator().manual_seed(case.seed)
        # Each frame moves: a rotation by at least one, its frames then reversed in every other case.
        turn = int(torch.randint(1, max(2, case.frames), (1,), generator=draw))
        order = tuple((frame + turn) % case.frames for frame in range(case.frames))
        first = all_tensors(read_stages(call(model, batch)))
        second = all_tensors(read_stages(call(model, permuted(batch_of(case), order))))
        few = first_frames(batch_of(case), 2)
        right, moved = (all_tensors(read_stages(gathered(model, given))) for given in (few, moved_by_rounding(few)))
        return Reordered(case, order, first, second, tolerances(pairs(right, moved)))


@dataclass(frozen=True)
class Prompted:
    """A clip as it is, and with one box prompt changed."""

    case: Training
    #: The stage and the query whose prompt is changed.
    frame: int
    query: int
    plain: tuple[tuple[Outputs, ...], ...]
    #: With the box moved, and with its label turned round.
    changed: Mapping[str, tuple[tuple[Outputs, ...], ...]]
    tolerances: Mapping[str, float]


def prompt_clip(rank: int, world_size: int, target: Target, case: Training) -> Prompted | None:
    """Run the forward in training mode, without gradient, on a clip and on the same with one prompt changed.

    Gives None for a clip without box prompts.
    """
    if case.boxes == 0:
        return None
    with sam3_on_cpu(), torch.no_grad():
        model, batch = model_of(target, case), batch_of(case)
        draw = torch.Generator().manual_seed(case.seed)
        frame = int(torch.randint(case.frames, (1,), generator=draw))
        with_a_box = (~batch.find_inputs[frame].input_boxes_mask[:, 0]).nonzero().flatten()
        query = int(with_a_box[torch.randint(len(with_a_box), (1,), generator=draw)])
        plain = all_tensors(read_stages(call(model, batch)))
        changed = {}
        for what in ("box", "label"):
            other = batch_of(case)
            stage = other.find_inputs[frame]
            if what == "box":
                stage.input_boxes[0, query] = 1 - stage.input_boxes[0, query]
            else:
                stage.input_boxes_label[0, query] = 1 - stage.input_boxes_label[0, query]
            changed[what] = all_tensors(read_stages(call(model, other)))
        few = permuted(batch_of(case), [frame])
        right, moved = (all_tensors(read_stages(gathered(model, given))) for given in (few, moved_by_rounding(few)))
        return Prompted(case, frame, query, plain, changed, tolerances(pairs(right, moved)))
