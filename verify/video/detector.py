"""The target's buffer, and the detector that it belongs to, as a rank constructs it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from fixtures.synthetic.clips import why_no_clip
from fixtures.synthetic.script import INTERACTIVE, TRACKER
from fixtures.toy.build import accepted
from fixtures.toy.shrink import CannotShrink
from verify.engine.place import Place, place_of_method
from verify.target.loading import load
from verify.target.models import construction
from verify.target.naming import BATCHED, BUFFER_METHODS, Target
from verify.target.subjects import kind_of
from verify.video.scan import Scan

#: Stands among the names of a buffer's arguments where it takes any others as well.
ANY_OTHER = "**"
#: The answer's keys that every caller reads.
DETECTIONS = ("pred_logits", "pred_boxes", "pred_boxes_xyxy", "pred_masks")
#: Object ids [P, N] in an answer, where the buffer gives any.
OBJECT_IDS = "pred_object_ids"
#: The argument that asks for tracker features, under its names in versions of sam3 and in its own caller.
FEATURE_FLAGS = ("return_sam2_backbone_feats", "return_tracker_backbone_feats")
_FEATURES = {
    TRACKER: re.compile(r"^(?:tracker|sam2|propagation)_backbone_(fpn_\d|pos_enc)$"),
    INTERACTIVE: re.compile(r"^interactive_backbone_(fpn_\d|pos_enc)$"),
}


def is_batched(target: Target) -> bool:
    """Whether the buffer that is looked at detects batches of frames on every rank."""
    return kind_of(target) == BATCHED


def buffer_of(target: Target, model: Any) -> Callable[..., Any]:
    """The model's buffer that is looked at: a bound method, one of ``BUFFER_METHODS``."""
    return getattr(model, BUFFER_METHODS[kind_of(target)])


def place_of_buffer(target: Target) -> Place | None:
    """Where the method lies that is the buffer looked at."""
    return place_of_method(type(construction(target, tracker=True).model), BUFFER_METHODS[kind_of(target)])


@lru_cache(maxsize=16)
def buffer_options(target: Target) -> frozenset[str]:
    """Names of the arguments that the target's buffer declares; ``ANY_OTHER`` is one where it swallows others.

    An override that takes any arguments hands them on, as far as can be told: it takes what the one beneath it takes.
    """
    model = construction(target, tracker=True).model
    method, names = BUFFER_METHODS[kind_of(target)], set()
    for cls in type(model).__mro__:
        if method not in vars(cls):
            continue
        parameters = inspect.signature(getattr(cls, method)).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return frozenset(names)
    return frozenset({*names, ANY_OTHER})


def why_no_argument_for_nms(target: Target) -> str | None:
    """Say why a buffer cannot be asked for NMS, or give None where it can.

    One that names none of sam3's optional arguments and takes any, such as a wrapper, takes this one.
    """
    named = buffer_options(target)
    if "run_nms" in named or (ANY_OTHER in named and "track_in_reverse" not in named):
        return None
    return "the buffer has no argument run_nms"


def why_no_buffer(target: Target) -> str | None:
    """Say why the checks of the buffer cannot run on a target, or give None where they can."""
    if reason := why_no_clip(targets=False):
        return reason
    try:
        model = construction(target, tracker=True).model
    except CannotShrink as error:
        return str(error)
    method = BUFFER_METHODS[kind_of(target)]
    if not hasattr(type(model), method):
        return f"{type(model).__name__} has no {method}"
    return None


def detector(target: Target, case: Scan) -> nn.Module:
    """Construct the target's detector as a rank would, from the same parts and the rank's environment.

    It is in training mode, as a new module is.
    """
    built = construction(target, tracker=case.tracker)
    wanted = {"async_all_gather": case.asynchronous, "gather_backbone_out": case.gather}
    return built.again(**accepted(type(built.model), wanted))


def can_leave_out_the_neck(target: Target) -> bool:
    """Whether the target's builder can be told to make no tracker neck."""
    return bool(accepted(load(target).builder, {"enable_inst_interactivity": False}))


def necks_of(target: Target) -> tuple[str, ...]:
    """The necks whose features the target's buffer hands on: the tracker's, in a multiplex model both."""
    model = construction(target, tracker=True).model
    return (TRACKER, INTERACTIVE) if getattr(model, "is_multiplex", False) else (TRACKER,)


def features_of(answer: Mapping[str, Any], neck: str = TRACKER) -> dict[str, Any]:
    """A neck's features in an answer, by what follows the neck's name: ``fpn_0`` … ``fpn_2``, ``pos_enc``."""
    return {match.group(1): value for key, value in answer.items() if (match := _FEATURES[neck].match(key))}
