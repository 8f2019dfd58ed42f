"""Pictures of a training step: where gradient goes, frame by frame, and how much of it each part of the model gets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from verify.clips.case import Training
from verify.engine.picture import Picture, cut
from verify.target.naming import Target
from verify.tensors.parts import part_of
from verify.training.gradient_map import GradientMap
from verify.training.observation import GradientAgreement, Trained

#: The most frames and parts of a model that a picture shows.
FRAMES, PARTS = 8, 14


def shows(case: Training) -> float:
    """How much a case shows: one clip of some frames."""
    return -float(abs(case.frames - 5) + 3 * (case.clips - 1))


def _number(value: float) -> float | None:
    """A number as JSON has it, with what is to be seen of it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def gradient_map_pictures(case: Training, seen: Any, target: Target) -> tuple[Picture, ...]:
    """How each frame's outputs depend on each frame's image, and on each part of the model."""
    if not isinstance(seen, GradientMap):
        return ()
    return _map_picture(seen), _parts_picture(seen)


def _map_picture(seen: GradientMap) -> Picture:
    frames = seen.case.frames
    wrong = [
        [stage, frame]
        for stage, row in enumerate(seen.frames)
        for frame, value in enumerate(row)
        if (value == 0 or not math.isfinite(value)) == (stage == frame)
    ]
    shown = range(min(frames, FRAMES))
    if wrong and max(wrong[0]) >= FRAMES:
        shown = range(frames - FRAMES, frames)
    rows = [stage for stage in shown if stage < len(seen.frames)]
    cells = [[stage - shown.start, frame - shown.start] for stage, frame in wrong if stage in shown and frame in shown]
    data = {
        "rows": [f"outputs of frame {stage}" for stage in rows],
        "columns": [f"frame {frame}" for frame in shown],
        "across": "gradient in the image of",
        "values": [[_number(seen.frames[stage][frame]) for frame in shown] for stage in rows],
        "wrong": cells,
        "mark": _map_mark(wrong),
        "good": "each frame has gradient in its own image, and in no other",
    }
    ends = (
        f"{_map_mark(wrong)}."
        if wrong
        else "Each frame's outputs have gradient in that frame's own image, and in no other."
    )
    title = "Gradient of each frame's outputs in each frame's image"
    description = (
        f"A clip of {frames} frames: a row for what is computed for each, a column for each image, norms of the "
        f"gradients in the cells. {ends}{cut(len(shown), frames, 'frames')}"
    )
    return Picture("matrix", title, description, data)


def _map_mark(wrong: list[list[int]]) -> str:
    if not wrong:
        return ""
    stage, frame = wrong[0]
    if stage == frame:
        return f"First difference: outputs of frame {stage} have no gradient in their own image"
    return f"First difference: outputs of frame {stage} have gradient in the image of frame {frame}"


def _parts_picture(seen: GradientMap) -> Picture:
    stages = min(seen.case.frames, FRAMES, len(seen.frames))
    reached = {part: norms for part, norms in seen.modules.items() if any(norms)}
    parts = dict(list(reached.items())[:PARTS])
    cells = [[row, stage] for row, norms in enumerate(parts.values()) for stage, value in enumerate(norms[:stages])
             if value == 0]  # fmt: skip
    mark = ""
    if cells:
        mark = f"First difference: {list(parts)[cells[0][0]]} has no gradient of frame {cells[0][1]}, and has of others"
    data = {
        "rows": list(parts),
        "columns": [f"frame {frame}" for frame in range(stages)],
        "across": "gradient in the part's parameters, of the outputs of",
        "values": [[_number(value) for value in norms[:stages]] for norms in parts.values()],
        "wrong": cells,
        "mark": mark,
        "good": "every part that has gradient has it of each frame",
    }
    description = (
        f"Norms of the gradients that each part of the model gets of the outputs of each of {seen.case.frames} frames. "
        f"{mark + '.' if mark else 'Every part that has gradient has it of each frame.'}"
        f"{cut(len(parts), len(reached), 'parts with gradient')}{cut(stages, seen.case.frames, 'frames')}"
    )
    return Picture("matrix", "Gradient in each part of the model, frame by frame", description, data)


def _norm(values: Iterable[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def clip_gradient_pictures(case: Training, seen: Any, target: Target) -> tuple[Picture, ...]:
    """The gradient that each part of the model gets of a clip, beside that of its frames one by one."""
    if not isinstance(seen, Trained) or not seen.gradients:
        return ()
    parts: dict[str, list[GradientAgreement]] = {}
    for item in seen.gradients:
        if item.got or item.expected:
            parts.setdefault(part_of(item.name), []).append(item)
    told = [_part(name, items) for name, items in parts.items()]
    first = next((number for number, part in enumerate(told) if part["wrong"]), None)
    start = 0 if first is None else max(0, min(first - 3, len(told) - PARTS))
    shown = told[start : start + PARTS]
    ends = "Every part gets the gradient that its frames one by one come to."
    if first is not None:
        ends = f"The first part that does not get it is {told[first]['name']}: {told[first]['note']}."
    data = {
        "parts": shown,
        "across": "norm of the gradient",
        "expected": "frames one by one",
        "got": "the clip",
        "mark": None if first is None else first - start,
    }
    description = (
        f"Norms of the gradients of a clip of {case.frames} frames, by part of the model, beside those of its frames "
        f"one by one. {ends}{cut(len(shown), len(told), 'parts')}"
    )
    return (Picture("bars", "Gradients of the clip, beside its frames one by one", description, data),)


def _part(name: str, items: list[GradientAgreement]) -> dict[str, Any]:
    lost = sum(item.expected and not item.got for item in items)
    extra = sum(item.got and not item.expected for item in items)
    off = sum(item.got and item.expected and not item.apart <= item.tolerance for item in items)
    expected, got = _norm(item.expected_norm for item in items), _norm(item.got_norm for item in items)
    counts = [f"{count} of {len(items)} {words}" for count, words in ((lost, "lost"), (extra, "too many"), (off, "off"))
              if count]  # fmt: skip
    return {
        "name": name,
        "expected": _number(expected) or 0.0,
        "got": _number(got) or 0.0,
        "note": ", ".join(counts) or f"{got:.3g}",
        "wrong": bool(counts),
    }
