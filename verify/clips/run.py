"""One run of a target's forward on a batch of clips, and of sam3's one-frame forward on each frame alone.

Whatever the target raises comes out as a ``Violation`` that names the frame and the exception.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fixtures.ranks import progress
from reference.oracle.training import core_loss, one_frame, one_frame_model
from verify.clips.case import Training
from verify.engine.finding import Violation
from verify.engine.place import Place, place_at
from verify.engine.raised import frames_outside_torch
from verify.target.loading import load
from verify.target.models import construction
from verify.target.naming import Target

#: Frames of a stack below the call of the target that a finding shows.
_STACK_FRAMES = 8


#: Modules whose values are copied: containers, which hooks are kept in, and what binds a method to its object.
_COPIED = ("builtins", "collections", "functools")
_REGISTRIES = ("_modules", "_parameters", "_buffers")


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What the parts of a model hold by name beside tensors and other parts."""
    for module in model.modules():
        for name, value in vars(module).items():
            if not isinstance(value, (torch.Tensor, nn.Module)):
                yield name, value


def _can_be_copied(name: str, value: Any, shared: Mapping[int, Any]) -> bool:
    if name in _REGISTRIES:
        return True
    try:
        copy.deepcopy(value, dict(shared))
    except Exception:
        return False
    return True


def private_copy(model: nn.Module) -> nn.Module:
    """Copy a model, so that what a run leaves behind in it does not bear on the next.

    What holds neither tensors nor other values (a tokenizer, say) is shared: copying it would take longest; so is what
    cannot be copied, such as a lock. Hooks on parameters' gradients, which a copied parameter lacks, are made anew.
    """
    shared = {id(value): value for _, value in _attributes(model) if type(value).__module__ not in _COPIED}
    try:
        copied = copy.deepcopy(model, dict(shared))
    except Exception:
        parts = shared | {id(module): module for module in model.modules()}  # which hooks and the like may name
        alike = {id(value): value for name, value in _attributes(model) if not _can_be_copied(name, value, parts)}
        copied = copy.deepcopy(model, shared | alike)
    for parameter, own in zip(model.parameters(), copied.parameters(), strict=True):
        for hook in (parameter._backward_hooks or {}).values():
            own.register_hook(hook)
    return copied


def model_of(target: Target, case: Training, dropout: bool = False) -> nn.Module:
    """The target's model for a case, built for training and in training mode, for this caller alone.

    Args:
        dropout: whether dropout and drop path are as the target's builder sets them, or off.
    """
    built = construction(target, tracker=False, segmentation=case.segmentation, eval_mode=False, dropout=dropout)
    return private_copy(built.model).train()


def loss_of_target(target: Target, case: Training) -> Any:
    """The loss that the target is trained with, on masks where the case has them."""
    return load(target).make_loss(masks=case.mask_loss)


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
    frames = frames_outside_torch(error)
    while frames and frames[0].filename == __file__:
        del frames[0]
    return "".join(traceback.format_list(frames[-_STACK_FRAMES:])) + "".join(traceback.format_exception_only(error))


def _place(error: BaseException) -> Place | None:
    frames = frames_outside_torch(error)
    return place_at(frames[-1].filename, frames[-1].lineno, frames[-1].name) if frames else None


def failed(what: str, error: Exception, batch: Any, frame: int | None = None) -> Violation:
    """Make a violation of an exception that came out of the target, at ``frame`` or where the stack says."""
    if frame is None:
        frame = _frame_of(error, batch)
    where = "" if frame is None else f" at frame {frame}"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return Violation(f"{what}{where}: {text}", frame=frame, got=text, details=_stack(error), place=_place(error))


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
    return core_loss(value)


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


def forward_clip(model: nn.Module, batch: Any, one_by_one: bool) -> tuple[Any, nn.Module]:
    """Run the target's forward on a batch, or ``one_by_one`` sam3's on each frame; gives stages, and whose they are.

    Raises:
        Violation: when it raises.
    """
    return (gathered(model, batch), one_frame_model(model)) if one_by_one else (call(model, batch), model)


def clip_loss(loss: Any, model: nn.Module, batch: Any, one_by_one: bool = False) -> torch.Tensor:
    """The loss of what ``forward_clip`` gives; raises as that and ``loss_value`` do."""
    stages, owner = forward_clip(model, batch, one_by_one)
    return loss_value(loss, stages, owner, batch)


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor | None]:
    """The gradients that a backward pass left, by parameter; None where it left none, or nothing but zeros."""
    found: dict[str, torch.Tensor | None] = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[name] = gradient if gradient is not None and bool(gradient.any()) else None
    return found


def backward(value: torch.Tensor, batch: Any) -> None:
    try:
        value.backward()
    except Exception as error:
        raise failed("the backward pass failed", error, batch) from error
    finally:
        progress()
