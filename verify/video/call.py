"""One call of a target's buffer: the arguments that it is given, and what it keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from enum import Enum
from numbers import Integral
from types import ModuleType
from typing import Any

import torch

from fixtures.synthetic.script import FRAMES_TOLD, identify
from verify.target.naming import Target
from verify.video.detector import ANY_OTHER, FEATURE_FLAGS, buffer_of, buffer_options, is_batched
from verify.video.scan import Scan, Visit

#: What sam3's own signatures say of the arguments that a caller may leave out, but for the size of batches.
_DEFAULTS: Mapping[str, Any] = {
    "track_in_reverse": False,
    **dict.fromkeys(FEATURE_FLAGS, False),
    "run_nms": False,
    "nms_prob_thresh": None,
    "nms_iou_thresh": None,
    "nms_use_iom": False,
    "max_frame_num_to_track": None,
    "propagate_in_video_start_frame_idx": None,
    "feature_cache": None,
}


def _options(target: Target, case: Scan, visit: Visit) -> dict[str, Any]:
    """Optional arguments of a call; those that a target does not declare are passed only where it swallows others."""
    declared = buffer_options(target)
    size = {"batch_size": case.batch} if case.batch else {}
    asking = declared.intersection(FEATURE_FLAGS) or (set(FEATURE_FLAGS) if ANY_OTHER in declared else set())
    if case.defaults == "left out":
        return size
    if case.defaults == "given":
        taken = {"track_in_reverse", *asking, *declared}
        return {name: value for name, value in _DEFAULTS.items() if name in taken} | size
    options: dict[str, Any] = dict.fromkeys(sorted(asking), case.features)
    options["track_in_reverse"] = visit.reverse
    if case.suppression is not None:
        options |= {
            "run_nms": True,
            "nms_prob_thresh": case.suppression.probability,
            "nms_iou_thresh": case.suppression.iou,
        }
        if case.suppression.use_iom:
            options["nms_use_iom"] = True
    if visit.limit is not None:
        options |= {"max_frame_num_to_track": visit.limit, "propagate_in_video_start_frame_idx": visit.limit_from}
    elif case.visits is None:
        # As sam3's own callers do in a scan without a limit: they tell where it began, and None for the limit.
        told = {"max_frame_num_to_track": None, "propagate_in_video_start_frame_idx": case.start}
        options |= {name: value for name, value in told.items() if name in declared}
    return options | size


def call_buffer(
    target: Target,
    model: Any,
    case: Scan,
    visit: Visit,
    inputs: Mapping[str, Any],
    kept: MutableMapping[Any, Any],
    others: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Call the buffer for a visit, with what it ``kept`` from the calls before; gives its answer.

    Args:
        inputs: ``backbone_out``, ``find_inputs`` and ``geometric_prompt``.
        others: arguments that go before those that the case asks for.
    """
    keeps = {"grounding_cache" if is_batched(target) else "multigpu_buffer": kept}
    returned = buffer_of(target, model)(
        **inputs,
        **keeps,
        frame_idx=visit.frame,
        num_frames=case.frames,
        **{**_options(target, case, visit), **(others or {})},
    )
    answer = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
    if not isinstance(answer, Mapping):
        raise TypeError(f"the buffer returns {type(answer).__name__}, and not detections by their names")
    return answer  # type: ignore[return-value]


_SEQUENCES = (list, tuple, set, frozenset, deque)


def _parts(value: Any) -> Iterator[tuple[str | None, Any]]:
    """What a container or an object holds: by name, where it has one."""
    if isinstance(value, Mapping):
        yield from ((key if isinstance(key, str) else None, item) for key, item in value.items())
    elif isinstance(value, _SEQUENCES):
        yield from ((None, item) for item in value)
    elif not isinstance(value, (torch.nn.Module, type, ModuleType)):
        yield from getattr(value, "__dict__", {}).items()
        yield from ((slot, getattr(value, slot)) for slot in _slots(type(value)) if hasattr(value, slot))


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        named = base.__dict__.get("__slots__", ())
        yield from (slot for slot in ((named,) if isinstance(named, str) else named) if not slot.startswith("__"))


#: What holds nothing but itself.
_PLAIN = (type(None), int, float, complex, str, bytes, range, slice, Enum, torch.dtype, torch.device)


def _contents(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All tensors within a value, each with the innermost name that it goes by, and all that cannot be looked into."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif not isinstance(value, _PLAIN) and id(value) not in seen:
        seen.add(id(value))
        parts = list(_parts(value))
        if not parts and not isinstance(value, (Mapping, *_SEQUENCES)):
            yield name, value
        for part, item in parts:
            yield from _contents(item, part or name, seen)


def _frames_of_boxes(name: str, values: Any) -> Iterator[int]:
    """The frames that scripted boxes are of; none where it is something else."""
    if name == "pred_boxes" and isinstance(values, torch.Tensor) and values.dim() >= 3:
        for row in values:
            origin = identify(name, row)
            if origin is not None:
                yield origin.frame


def _is_number(key: Any) -> bool:
    return isinstance(key, Integral) and not isinstance(key, bool)


def _is_of_a_frame(entry: Any) -> bool:
    """Whether an entry holds detections, and not again entries by their numbers; a tuple's need not go by names."""
    contents = _contents(entry, "", set())
    if not isinstance(entry, Mapping):
        return any(isinstance(value, torch.Tensor) for _, value in contents)
    if "pred_boxes" in entry:
        return True
    return not any(map(_is_number, entry)) and any(name == "pred_boxes" for name, _ in contents)


def frames_kept(target: Target, kept: Mapping[Any, Any], of: int) -> frozenset[int] | None:
    """The frames, ``of`` so many of the clip, whose detections a buffer holds after a call; None if that is not told.

    A chunked buffer has them under their numbers, or it is not told. A batched one is looked through for scripted
    boxes, which tell what frame they are of where the clip has no more than they tell apart: how it names its chunks is
    its own affair.
    """
    if is_batched(target):
        if of > FRAMES_TOLD:
            return None
        contents = list(_contents(kept, "", set()))
        frames = frozenset(frame for name, values in contents for frame in _frames_of_boxes(name, values))
        return frames if frames or not contents else None
    frames = frozenset(int(key) for key, entry in kept.items() if _is_number(key) and _is_of_a_frame(entry))
    return None if kept and not frames else frames
