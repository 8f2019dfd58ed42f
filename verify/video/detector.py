"""The target's buffer, and the detector that it belongs to, as a rank constructs it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fixtures.toy.shrink import CannotShrink
from verify.target.models import construction
from verify.target.naming import BUFFER_METHOD, Target
from verify.video.scan import Scan


def buffer_of(model: Any) -> Callable[..., Any]:
    """The model's chunked buffer: its bound method ``forward_video_grounding_multigpu``."""
    return getattr(model, BUFFER_METHOD)


#: Stands among the names of a buffer's arguments where it takes any others as well.
ANY_OTHER = "**"


def buffer_options(target: Target) -> frozenset[str]:
    """Names of the arguments that the target's buffer declares; ``ANY_OTHER`` is one where it swallows others."""
    model = construction(target, tracker=True).model
    parameters = inspect.signature(getattr(type(model), BUFFER_METHOD)).parameters.values()
    return frozenset(
        ANY_OTHER if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.name for parameter in parameters
    )


def why_no_buffer(target: Target) -> str | None:
    """Say why the checks of the buffer cannot run on a target, or give None where they can."""
    try:
        model = construction(target, tracker=True).model
    except CannotShrink as error:
        return str(error)
    if not hasattr(type(model), BUFFER_METHOD):
        return f"{type(model).__name__} has no {BUFFER_METHOD}"
    return None


def detector(target: Target, case: Scan) -> nn.Module:
    """Construct the target's detector as a rank would, from the same parts and the rank's environment.

    It is in training mode, as a new module is.
    """
    built = construction(target, tracker=case.tracker)
    wanted = {"async_all_gather": case.asynchronous, "gather_backbone_out": case.gather}
    parameters = inspect.signature(type(built.model)).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        wanted = {name: value for name, value in wanted.items() if name in parameters}
    return built.again(**wanted)


#: The answer's keys that every caller reads.
DETECTIONS = ("pred_logits", "pred_boxes", "pred_boxes_xyxy", "pred_masks")
_FEATURE = re.compile(r"^(?:tracker|sam2)_backbone_(fpn_\d|pos_enc)$")
#: The argument that asks for tracker features, under its names in versions of sam3 and in its own caller.
FEATURE_FLAGS = ("return_sam2_backbone_feats", "return_tracker_backbone_feats")


def features_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The tracker features in an answer, by what follows the neck's name: ``fpn_0`` … ``fpn_2``, ``pos_enc``."""
    return {match.group(1): value for key, value in answer.items() if (match := _FEATURE.match(key))}
