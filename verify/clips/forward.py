"""Whether a target has a forward that takes several frames at all."""

from __future__ import annotations

import traceback
from contextlib import suppress
from functools import lru_cache

import torch
from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.synthetic.clips import why_no_clip
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.shrink import CannotShrink
from verify.clips.batch import batch_of, on_device_of
from verify.clips.capture import captured_output
from verify.clips.case import Training
from verify.clips.run import model_of
from verify.engine.place import Place, place_of_method
from verify.engine.raised import frames_outside_torch
from verify.target.models import construction
from verify.target.naming import Target
from verify.tensors.precision import computing_in


def _refused(model: nn.Module) -> str | None:
    """How the forward itself refuses two frames where it takes one; None where it does not refuse."""
    refused = None
    for frames in (2, 1):
        try:
            model(on_device_of(model, batch_of(Training(frames=frames))))
        except (AssertionError, NotImplementedError) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            own = type(model).forward.__code__
            # An assertion further in is a crash of a forward that tried.
            if frames == 1 or (place.filename, place.name) != (own.co_filename, own.co_name):
                return None
            refused = f"{place.line} ({place.filename}, line {place.lineno})"
        except Exception as error:
            if refused is None:
                raise
            inner = frames_outside_torch(error)[-1]
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            refused += f"; and with a single one it fails: {words} ({inner.filename}, line {inner.lineno})"
    return refused


def _refusal(rank: int, world_size: int, target: Target) -> str | None:
    """How the forward refuses two frames, without gradients, and in the precision that it runs in."""
    with sam3_on_cpu(), torch.no_grad():
        model = model_of(target, Training(frames=1))
        # SAM 3.1's layers run under autocast alone (https://github.com/facebookresearch/sam3/issues/507).
        for precision in (torch.float32, torch.bfloat16):
            with suppress(Exception), computing_in(precision):
                return _refused(model)
    return None


def place_of_forward(target: Target) -> Place | None:
    """Where the forward lies of the model that is trained."""
    model = construction(target, tracker=False, segmentation=False, eval_mode=False).model
    return place_of_method(type(model), "forward")


@lru_cache(maxsize=8)
def why_no_clip_forward(target: Target) -> str | None:
    """Say why a target has no forward over several frames, or give None where it has one, be it broken."""
    if reason := why_no_clip():
        return reason
    try:
        model = construction(target, tracker=False, segmentation=False, eval_mode=False).model
    except CannotShrink as error:
        return str(error)
    name = type(model).__name__
    if type(model).forward is nn.Module.forward:
        return f"{name} has no forward"
    ranks = Threads()
    try:
        with captured_output():
            refused = ranks.run(_refusal, 1, target)[0].value
    except RanksFailed:
        return None
    finally:
        ranks.close()
    return f"{name} has no forward over several frames: it takes a single one: {refused}" if refused else None
