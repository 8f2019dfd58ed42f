"""One run of a target's forward on a batch of clips, and of sam3's one-frame forward on each frame alone.

Whatever the target raises comes out as a ``Violation`` that names the frame and the exception.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fixtures.clips import make_clip
from fixtures.ranks import progress
from reference.training import CORE_LOSS, one_frame, one_frame_model
from verify.finding import Violation
from verify.subject import construction
from verify.target import Target, load
from verify.training import Training

#: Outputs that are not results but what later steps of tracking start from.
NOT_COMPARED = frozenset({"prev_encoder_out"})
#: Frames of a stack below the call of the target that a finding shows.
_STACK_FRAMES = 8

#: A step's tensors by name, such as ``aux_outputs[0].pred_boxes``.
Outputs = dict[str, torch.Tensor]


def private_copy(model: nn.Module) -> nn.Module:
    """Copy a model, so that what a run leaves behind in it does not bear on the next.

    What holds neither tensors nor other values (a tokenizer, say) is shared: copying it would take longest.
    """
    shared: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value).__module__ != "builtins" and not isinstance(value, (torch.Tensor, nn.Module)):
                shared[id(value)] = value
    return copy.deepcopy(model, shared)


def model_of(target: Target, case: Training) -> nn.Module:
    """The target's model for a case, built for training and in training mode, for this caller alone."""
    built = construction(target, tracker=False, segmentation=case.segmentation, eval_mode=False)
    return private_copy(built.model).train()


def loss_of_target(target: Target, case: Training) -> Any:
    """The loss that the target is trained with, on masks where the case has them."""
    return load(target).loss(masks=case.mask_loss)


def batch_of(case: Training) -> Any:
    return make_clip(case.spec())


def _frame_of(error: BaseException, batch: Any) -> int | None:
    """The frame whose stage or target the innermost function that raised held in a variable."""
    owners: dict[int, int] = {}
    for given in (batch.find_inputs, batch.find_targets or ()):
        owners |= {id(item): frame for frame, item in enumerate(given) if item is not None}
    found = None
    trace = error.__traceback__
    while trace is not None:
        held = {owners[id(value)] for value in trace.tb_frame.f_locals.values() if id(value) in owners}
        if len(held) == 1:
            found = held.pop()
        trace = trace.tb_next
    return found


def _stack(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    while frames and frames[0].filename == __file__:
        del frames[0]
    inner = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename][-_STACK_FRAMES:]
    return "".join(traceback.format_list(inner)) + "".join(traceback.format_exception_only(error))


def failed(what: str, error: Exception, batch: Any, frame: int | None = None) -> Violation:
    """Make a violation of an exception that came out of the target, at ``frame`` or where the stack says."""
    if frame is None:
        frame = _frame_of(error, batch)
    where = "" if frame is None else f" at frame {frame}"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Violation(f"{what}{where}: {text}", frame=frame, got=text, details=_stack(error))


def call(model: nn.Module, batch: Any) -> Any:
    """Call the target's forward with a batch of clips.

    Raises:
        Violation: when it raises.
    """
    try:
        returned = model(batch)
    except Exception as error:
        raise failed("the forward failed", error, batch) from error
    finally:
        progress()
    return returned


@dataclass(frozen=True)
class Stages:
    """What a forward returned, read as a list of stages, each a list of its steps' outputs."""

    steps: tuple[tuple[Mapping[str, Any], ...], ...]
    #: Why sam3's loss and trainer cannot take it, or None.
    misfit: str | None


def read_stages(returned: Any) -> Stages:
    """Read what a forward returned, as leniently as makes sense."""
    from sam3.model.model_misc import SAM3Output

    misfit = None
    listed = getattr(returned, "output", returned)
    if not isinstance(returned, SAM3Output):
        misfit = f"the forward returns a {type(returned).__name__}, where sam3's loss and trainer take a SAM3Output"
    if not isinstance(listed, (list, tuple)):
        return Stages((), misfit)
    stages = tuple(tuple(stage) if isinstance(stage, (list, tuple)) else (stage,) for stage in listed)
    for number, steps in enumerate(stages):
        if not steps:
            misfit = misfit or f"stage {number} holds no step's outputs"
        elif not all(isinstance(step, Mapping) for step in steps):
            misfit = misfit or f"stage {number} holds a {type(steps[0]).__name__}, where outputs are a dictionary"
            return Stages((), misfit)
    if misfit is None:
        with SAM3Output.iteration_mode(returned, iter_mode=returned.iter_mode) as same:
            odd = next((item for item in same if not isinstance(item, Mapping)), None)
        if odd is not None:
            misfit = (
                f"iterating over what the forward returns gives a {type(odd).__name__} a stage, where the trainer "
                "takes the outputs of its last step (IterMode.LAST_STEP_PER_STAGE)"
            )
    return Stages(stages, misfit)


def _collect(value: Any, name: str, found: Outputs) -> None:
    if isinstance(value, torch.Tensor):
        found[name] = value.detach().clone()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, f"{name}.{key}" if name else str(key), found)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _collect(item, f"{name}[{number}]", found)


def tensors_of(step: Mapping[str, Any]) -> Outputs:
    """Copy a step's tensors, without gradient, by name; but for those that are not compared."""
    found: Outputs = {}
    _collect({key: value for key, value in step.items() if key not in NOT_COMPARED}, "", found)
    return found


def loss_value(loss: Any, stages: Any, model: Any, batch: Any) -> torch.Tensor:
    """Compute a loss as sam3's trainer does.

    Raises:
        Violation: when it cannot be computed from what the forward returned.
    """
    try:
        value = loss(stages, [model.back_convert(target) for target in batch.find_targets])
    except Exception as error:
        raise failed("the loss cannot be computed from what the forward returns", error, batch) from error
    finally:
        progress()
    return value[CORE_LOSS] if isinstance(value, Mapping) else value


def gathered(model: nn.Module, batch: Any, before_loss: Callable[[Any, dict, Any], None] | None = None) -> Any:
    """Run sam3's one-frame forward on each frame alone, and gather the stages in one ``SAM3Output``.

    Args:
        before_loss: called with the one-frame model, each step's outputs and the frame's target.

    Raises:
        Violation: when it raises.
    """
    from sam3.model.model_misc import SAM3Output

    plain = one_frame_model(model)
    stages = SAM3Output(iter_mode=SAM3Output.IterMode.LAST_STEP_PER_STAGE)
    for frame in range(len(batch.find_inputs)):
        try:
            steps = plain.forward(one_frame(batch, frame)).output[0]
        except Exception as error:
            what = f"the one-frame forward of {type(plain).__name__}, which the clip is compared with, failed"
            raise failed(what, error, batch, frame) from error
        if before_loss is not None:
            for step in steps:
                before_loss(plain, step, batch.find_targets[frame])
        stages.append(steps)
        progress()
    return stages


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor | None]:
    """The gradients that a backward pass left, by parameter; None where it left none, or nothing but zeros."""
    found: dict[str, torch.Tensor | None] = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[name] = gradient if gradient is not None and bool(gradient.any()) else None
    return found


@dataclass(frozen=True)
class Encoding:
    """One call of an image backbone: what arrived at its first convolution."""

    #: The convolution's name in the model.
    module: str
    #: For each image that arrived its number in the batch, or None where it is none of them.
    images: tuple[int | None, ...]


@contextlib.contextmanager
def watched_encodings(model: nn.Module, images: torch.Tensor) -> Iterator[list[Encoding]]:
    """List the images that arrive at any convolution over three channels, told apart by their content."""
    seen: list[Encoding] = []
    known = images.detach().clone()

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            given = inputs[0].detach()
            numbers: list[int | None] = [None] * len(given)
            if given.shape[1:] == known.shape[1:]:
                for row, image in enumerate(given.to(known.dtype)):
                    equal = (known == image).flatten(1).all(dim=1).nonzero().flatten().tolist()
                    numbers[row] = equal[0] if equal else None
            seen.append(Encoding(name, tuple(numbers)))

        return hook

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Catch what is written to standard output, by Python and by anything else; yields a function that gives it.

    Under pytest ``sys.stdout`` is not file descriptor 1, so both are taken over.
    """
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:

        def written() -> str:
            file.seek(0)
            return text.getvalue() + file.read().decode(errors="replace")

        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield written
        finally:
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()
            os.dup2(kept, 1)
            os.close(kept)


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
