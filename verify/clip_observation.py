"""What the group *training* observes of a target in a case, each on the only rank of a group of its own.

A group of one isolates: sam3's loss all-reduces over the default group, and under torchrun that one has other ranks.
Observations are remembered, because many checks look at the same ones.
"""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fixtures.cpu import sam3_on_cpu
from fixtures.ranks import Ranks, RanksFailed, progress
from reference.training import one_frame_model
from verify.check import Observation
from verify.clip_run import (
    Encoding,
    Outputs,
    Stages,
    batch_differences,
    batch_of,
    call,
    captured_output,
    failed,
    frames_of_images,
    gathered,
    gradients_of,
    loss_of_target,
    loss_value,
    model_of,
    permuted,
    read_stages,
    tensors_of,
    watched_encodings,
)
from verify.finding import Violation
from verify.target import Target
from verify.tolerance import distance, perturbed, tolerances
from verify.training import Training

#: Observations remembered: those of one profile *quick*, more or less.
_REMEMBERED = 128
_memory: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

#: Observes a case on a rank.
OnRank = Callable[[int, int, Target, Training], Any]


def on_one_rank(function: OnRank) -> Observation:
    """Make an observation of a function, run on a single rank; its results and failures are remembered."""

    def observe(ranks: Ranks, target: Target, case: Training) -> Any:
        key = (function.__name__, target, case)
        if key not in _memory:
            try:
                outcome = ranks.run(function, 1, target, case)[0].value
            except RanksFailed as failure:
                cause = failure.causes.get(0)
                outcome = cause if isinstance(cause, Violation) else failure
            _memory[key] = outcome
            while len(_memory) > _REMEMBERED:
                _memory.popitem(last=False)
        _memory.move_to_end(key)
        outcome = _memory[key]
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)
        return outcome

    return observe


# The forward and the backward pass of training


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
    #: Of each gradient, so that two runs can be compared bit by bit.
    digests: Mapping[str, str] | None = None

    def require_gradients(self) -> None:
        """Raise the violation because of which there is no loss or no gradient, if there is one."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)


def digest(gradient: torch.Tensor | None) -> str:
    return "none" if gradient is None else hashlib.blake2b(gradient.cpu().numpy().tobytes()).hexdigest()


def all_tensors(stages: Stages) -> tuple[tuple[Outputs, ...], ...]:
    return tuple(tuple(tensors_of(step) for step in steps) for steps in stages.steps)


def backward(value: torch.Tensor, batch: Any) -> None:
    try:
        value.backward()
    except Exception as error:
        raise failed("the backward pass failed", error, batch) from error
    finally:
        progress()


def pairs(
    right: tuple[tuple[Outputs, ...], ...], moved: tuple[tuple[Outputs, ...], ...]
) -> Iterator[tuple[Outputs, Outputs]]:
    for steps, others in zip(right, moved, strict=True):
        yield from zip(steps, others, strict=True)


def _oracle_gradients(
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


def moved_by_rounding(batch: Any) -> Any:
    return replace(batch, img_batch=perturbed(batch.img_batch))


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
        right, right_loss, right_gradients = _oracle_gradients(model, clean, loss)
        moved, moved_loss, moved_gradients = _oracle_gradients(model, moved_by_rounding(clean), loss)
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
            digests={name: digest(gradient) for name, gradient in gradients.items()},
        )


# Gradients from frame to frame


@dataclass(frozen=True)
class GradientMap:
    """How each stage's outputs depend on the images of each frame, and on the parameters of each part of the model."""

    case: Training
    #: Row t, column s: norm of the gradient of stage t's outputs, projected at random, in the images of frame s.
    frames: tuple[tuple[float, ...], ...]
    #: For each part of the model the norms of the same gradients in its parameters, stage by stage.
    modules: Mapping[str, tuple[float, ...]]

    def as_json(self) -> dict[str, Any]:
        """The case and both kinds of norms."""
        return {
            "case": self.case.as_json(),
            "frames": [list(row) for row in self.frames],
            "modules": {part: list(norms) for part, norms in self.modules.items()},
        }


def _part(parameter: str) -> str:
    """The part of the model that a parameter is reported under: two names deep."""
    return ".".join(parameter.split(".")[:-1][:2]) or parameter


def _projection(step: Mapping[str, Any], seed: int) -> torch.Tensor | None:
    """A fixed random projection of a step's outputs that carry gradient, each by its size; None where none does."""
    generator = torch.Generator().manual_seed(seed)
    total = None
    for name in sorted(step):
        value = step[name]
        if not (name.startswith("pred_") and isinstance(value, torch.Tensor) and value.requires_grad):
            continue
        weights = torch.randn(value.shape, generator=generator).to(value)
        part = (weights * value).sum() / max(1, value.numel()) ** 0.5
        total = part if total is None else total + part
    return total


def map_gradients(rank: int, world_size: int, target: Target, case: Training) -> GradientMap:
    """Differentiate each stage's outputs by the images of every frame and by the parameters."""
    with sam3_on_cpu():
        model, batch = model_of(target, case), batch_of(case)
        batch.img_batch.requires_grad_()
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        stages = read_stages(call(model, batch))
        owner = frames_of_images(batch)
        rows: list[tuple[float, ...]] = []
        modules: dict[str, list[float]] = {_part(name): [] for name in named}
        for number, steps in enumerate(stages.steps):
            value = _projection(steps[-1], seed=number)
            batch.img_batch.grad = None
            model.zero_grad(set_to_none=True)
            if value is not None and value.requires_grad:
                try:
                    value.backward(retain_graph=True)
                except Exception as error:
                    raise failed(f"the gradient of stage {number} cannot be computed", error, batch) from error
            progress()
            squares = [0.0] * case.frames
            if batch.img_batch.grad is not None:
                for image, square in enumerate(batch.img_batch.grad.double().pow(2).flatten(1).sum(dim=1).tolist()):
                    if image in owner:
                        squares[owner[image]] += square
            rows.append(tuple(square**0.5 for square in squares))
            parts = dict.fromkeys(modules, 0.0)
            for name, parameter in named.items():
                if parameter.grad is not None:
                    parts[_part(name)] += float(parameter.grad.double().pow(2).sum())
            for part, square in parts.items():
                modules[part].append(square**0.5)
        return GradientMap(case, tuple(rows), {part: tuple(norms) for part, norms in modules.items()})


# Forwards alone


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


def first_frames(batch: Any, frames: int) -> Any:
    return permuted(batch, range(min(frames, len(batch.find_inputs))))


def detect_clip(rank: int, world_size: int, target: Target, case: Training) -> Detected:
    """Run the forward in training mode, without gradient, and the oracle."""
    with sam3_on_cpu():
        return _detect(model_of(target, case), case)


@dataclass(frozen=True)
class Evaluated:
    """A forward in evaluation, and the loss computed from what it returns."""

    detected: Detected
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
        return Evaluated(detected, failure, value, right, allowed["loss"])


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
