"""What a target's forward makes of other settings: missing targets, interactive steps, checkpointing, a second run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle.training import detector_of, one_frame, one_frame_model
from verify.clips.batch import batch_of, first_frames, moved_by_rounding
from verify.clips.case import Training
from verify.clips.projection import projection
from verify.clips.run import backward, call, gathered, gradients_of, loss_of_target, loss_value, model_of
from verify.clips.stages import Outputs, all_tensors, pairs, read_stages
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.tensors.describe import describe_tensor
from verify.tensors.tolerance import distance, rounding, tolerances

_CHECKPOINTING = re.compile(r"act_ckpt|act_checkpoint|grad_checkpointing|use_checkpoint")


@dataclass(frozen=True)
class Answer:
    """What came of a call: an exception, or a list of stages."""

    #: The exception's message and type, with those it derives from, and where it was raised.
    error: str | None
    kinds: tuple[str, ...] = ()
    details: str = ""
    #: The frame that it was raised at, where that is known.
    frame: int | None = None
    #: Stages that the loss is to be computed on, where the output names them.
    loss_stages: tuple[int, ...] | None = None
    outputs: tuple[tuple[Outputs, ...], ...] = ()


def _answer(model: nn.Module, batch: Any) -> Answer:
    try:
        returned = call(model, batch)
    except Violation as violation:
        error = violation.__cause__
        assert error is not None
        return Answer(
            str(error), tuple(kind.__name__ for kind in type(error).__mro__), violation.details, violation.frame
        )
    named = getattr(returned, "loss_stages", None)
    stages = None if named is None else tuple(named)
    return Answer(None, loss_stages=stages, outputs=all_tensors(read_stages(returned)))


@dataclass(frozen=True)
class Unlabelled:
    """Training on a clip without the targets of one frame."""

    frame: int
    #: By how they are missing.
    answers: Mapping[str, Answer]


def withhold_targets(rank: int, world_size: int, target: Target, case: Training) -> Unlabelled:
    """Train on a clip whose targets are None for a frame, and on one whose list of targets ends before it."""
    with sam3_on_cpu():
        model = model_of(target, case)
        frame = case.seed % case.frames
        missing, short = batch_of(case), batch_of(case)
        missing.find_targets[frame] = None
        del short.find_targets[frame:]
        answers = {
            f"find_targets[{frame}] is None": _answer(model, missing),
            f"find_targets has {frame} entries for {case.frames} frames": _answer(model, short),
        }
        return Unlabelled(frame, answers)


#: Interactive steps in evaluation: from the second on, the step before is no longer the first. Odd, so that one more is
#: not the number with its lowest bit set.
INTERACTIVE_STEPS = 3


class NextBox:
    """Stands in for sam3's sampler of interactive prompts, which does not come with it: adds one box a step.

    It depends on all that a sampler is given: it lies between what the step before found and what the frame expects.
    """

    def sample(self, geo_prompt: Any, find_target: Any, previous_out: Mapping[str, Any]) -> tuple[Any, None]:
        boxes = previous_out["pred_boxes"].detach()[:, :1].transpose(0, 1)
        expected = find_target["boxes"] if isinstance(find_target, Mapping) else getattr(find_target, "boxes", None)
        if expected is not None and expected.numel():
            boxes = (boxes + expected.view(-1, 4).mean(0).to(boxes)) / 2
        prompt = geo_prompt.clone()
        prompt.append_boxes(boxes, torch.ones(boxes.shape[:2], dtype=torch.long, device=boxes.device))
        return prompt, None


@dataclass(frozen=True)
class Interactive:
    """Evaluation with interactive steps: with the model as it is built, and with a sampler of prompts."""

    bare: Answer
    sampled: Answer
    expected: tuple[tuple[Outputs, ...], ...]
    tolerances: Mapping[str, float]


def evaluate_interactively(rank: int, world_size: int, target: Target, case: Training) -> Interactive:
    """Evaluate a clip with ``INTERACTIVE_STEPS`` a frame."""
    with sam3_on_cpu(), torch.no_grad():
        model = model_of(target, case).eval()
        detector: Any = detector_of(model)
        detector.num_interactive_steps_val = INTERACTIVE_STEPS
        bare = _answer(model, batch_of(case))
        detector.interactive_prompt_sampler = NextBox()
        sampled = _answer(model, batch_of(case))
        right = all_tensors(read_stages(gathered(model, batch_of(case))))
        few = moved_by_rounding(first_frames(batch_of(case), 2))
        off = all_tensors(read_stages(gathered(model, few)))
        return Interactive(bare, sampled, right, tolerances(pairs(right[: len(off)], off)))


@dataclass(frozen=True)
class WithoutTargets:
    """Evaluation of a clip with the targets of its frames, and with none."""

    #: What came with targets, as far as sam3's one-frame forward gives it without.
    labelled: tuple[tuple[Outputs, ...], ...]
    answer: Answer


def _unlabelled(case: Training) -> Any:
    return replace(batch_of(case), find_targets=[None] * case.frames)


def evaluate_without_targets(rank: int, world_size: int, target: Target, case: Training) -> WithoutTargets:
    """Evaluate a clip as it is, and with None for the targets of every frame.

    Raises:
        NotCovered: where the target's evaluation fails with targets, too, or sam3's one-frame forward without them.
    """
    with sam3_on_cpu(), torch.no_grad():
        model = model_of(target, case).eval()
        labelled = _answer(model, batch_of(case))
        if labelled.error is not None:
            raise NotCovered(f"evaluation fails with targets, too: {labelled.kinds[0]}: {labelled.error}")
        try:
            right = all_tensors(read_stages(gathered(model.eval(), _unlabelled(case))))
        except Violation as violation:
            raise NotCovered(f"without targets {violation.message}") from None
        known = {name for steps in right for step in steps for name in step}
        kept = tuple(
            tuple({name: value for name, value in step.items() if name in known} for step in steps)
            for steps in labelled.outputs
        )
        return WithoutTargets(kept, _answer(model.eval(), _unlabelled(case)))


def _switches(model: nn.Module) -> dict[tuple[str, str], list[nn.Module]]:
    """The model's switches for activation checkpointing: boolean attributes, by class and name."""
    found: dict[tuple[str, str], list[nn.Module]] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, bool) and _CHECKPOINTING.search(name):
                found.setdefault((type(module).__name__, name), []).append(module)
    return found


def _step_on_one_frame(model: nn.Module, batch: Any) -> None:
    """Run sam3's one-frame forward and a backward pass: what breaks those is not the loop's doing."""
    try:
        stages = one_frame_model(model).forward(one_frame(batch, 0))
        value = projection(stages.output[0][-1], seed=0)
        if value is not None:
            value.backward()
    finally:
        model.zero_grad(set_to_none=True)  # a backward pass that breaks off has left some gradients


def _turn_checkpointing(model: nn.Module, value: bool, batch: Any) -> tuple[str, ...]:
    """Turn checkpointing on or off wherever sam3's one-frame step bears it; give the names of what changed.

    sam3's decoder, for one, asserts that its own is on in training.
    """
    changed = []
    for (owner, name), modules in _switches(model).items():
        before = [getattr(module, name) for module in modules]
        if all(was == value for was in before):
            continue
        for module in modules:
            setattr(module, name, value)
        try:
            _step_on_one_frame(model, batch)
            changed.append(f"{owner}.{name}")
        except Exception:
            for module, was in zip(modules, before, strict=True):
                setattr(module, name, was)
        progress()
    return tuple(changed)


@dataclass(frozen=True)
class Step:
    """One training step: outputs, loss, gradients."""

    outputs: tuple[tuple[Outputs, ...], ...]
    loss: float
    gradients: Mapping[str, torch.Tensor | None]


def training_step(target: Target, model: nn.Module, case: Training, backward_seed: int | None = None) -> Step:
    """Take a step under the case's seed; where one is given, with another one for the backward pass.

    The loss is a new one in each: one that counts its calls, to warm a term up, would give another value in the second.
    """
    batch, loss = batch_of(case), loss_of_target(target, case)
    torch.manual_seed(case.seed)
    returned = call(model, batch)
    outputs = all_tensors(read_stages(returned))
    value = loss_value(loss, returned, model, batch)
    if backward_seed is not None:
        torch.manual_seed(backward_seed)
    backward(value, batch)
    return Step(outputs, float(value.detach()), gradients_of(model))


@dataclass(frozen=True)
class Turned:
    """A training step with activation checkpointing set otherwise."""

    outputs: tuple[tuple[Outputs, ...], ...]
    #: Parameters whose gradient is another, with what was expected and what came, in words.
    gradients: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Checkpointed:
    """A training step with activation checkpointing as the builder sets it, all on, and off where it can be."""

    plain: tuple[tuple[Outputs, ...], ...]
    #: By which switches were turned, and how; where the step failed, why.
    others: Mapping[str, Turned | Violation]


def other_gradients(plain: Step, other: Step) -> tuple[tuple[str, str, str], ...]:
    """Recomputed values are the same bits; what may differ is the order in which gradients are summed up."""
    known = {name: value for name, value in plain.gradients.items() if value is not None}
    allowed = rounding(max((float(value.abs().max()) for value in known.values()), default=0.0))
    found = []
    for name, right in known.items():
        got = other.gradients.get(name)
        if got is None or distance(right, got) > allowed:
            found.append((name, describe_tensor(right), "none" if got is None else describe_tensor(got)))
    return tuple(found)


def turned_steps(target: Target, case: Training, dropout: bool = False) -> Iterator[tuple[str, Step | Violation]]:
    """Train one step with activation checkpointing all on, and one with it off, as far as it can be turned.

    Yields:
        which switches were turned, and how; the step, or why it failed.
    """
    for value in (True, False):
        model = model_of(target, case, dropout)
        turned = _turn_checkpointing(model, value, batch_of(case))
        if turned:
            step: Step | Violation
            try:
                step = training_step(target, model, case)
            except Violation as violation:
                step = violation
            yield f"{', '.join(turned)} {'on' if value else 'off'}", step


def checkpoint_clip(rank: int, world_size: int, target: Target, case: Training) -> Checkpointed:
    """Train one step with each setting of activation checkpointing."""
    with sam3_on_cpu():
        plain = training_step(target, model_of(target, case), case)
        others = {
            what: step if isinstance(step, Violation) else Turned(step.outputs, other_gradients(plain, step))
            for what, step in turned_steps(target, case)
        }
        return Checkpointed(plain.outputs, others)


def scale_losses(rank: int, world_size: int, target: Target, case: Training) -> dict[int, float]:
    """The loss of a clip of equal frames, by their number."""
    found = {}
    with sam3_on_cpu(), torch.no_grad():
        model = model_of(target, case)
        for frames in (1, 2, 4):
            batch, loss = _repeated(one_frame(batch_of(case), 0), frames), loss_of_target(target, case)
            found[frames] = float(loss_value(loss, call(model, batch), model, batch))
    return found


def _repeated(batch: Any, frames: int) -> Any:
    """Give a clip of ``frames`` frames that all are the only one of ``batch``."""
    images, stage = len(batch.img_batch), batch.find_inputs[0]
    return replace(
        batch,
        img_batch=batch.img_batch.repeat(frames, 1, 1, 1),
        find_inputs=[replace(stage, img_ids=stage.img_ids + frame * images) for frame in range(frames)],
        find_targets=list(batch.find_targets) * frames,
        find_metadatas=list(batch.find_metadatas) * frames,
    )
