"""Pictures of parameters by module: how many get their gradient, and how many a step of an optimizer changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verify.clips.case import Training
from verify.engine.picture import Picture, cut
from verify.gradients.observation import Differentiated
from verify.gradients.optimizer import Optimized
from verify.target.naming import Target
from verify.tensors.parts import part_of

#: The most modules that a picture shows.
MODULES = 14


def shows(case: Training) -> float:
    return float(case.frames)


def _by_module(due: Iterable[str], lost: Iterable[str], wrong: Iterable[str], words: tuple[str, str]) -> dict[str, Any]:
    """Data of bars: for each module how many parameters are due something, and how many get it."""
    counts: dict[str, list[int]] = {}
    for place, names in enumerate((due, lost, wrong)):
        for name in names:
            counts.setdefault(part_of(name), [0, 0, 0])[place] += 1
    parts = [
        {
            "name": module,
            "expected": of,
            "got": of - missing - off,
            "note": ", ".join([f"{n} of {of} {word}" for n, word in zip((missing, off), words, strict=True) if n])
            or str(of),
            "wrong": bool(missing or off),
        }
        for module, (of, missing, off) in counts.items()
    ]
    first = next((number for number, part in enumerate(parts) if part["wrong"]), None)
    start = 0 if first is None else max(0, min(first - 3, len(parts) - MODULES))
    return {
        "parts": parts[start : start + MODULES],
        "across": "parameters",
        "mark": None if first is None else first - start,
        "of": len(parts),
    }


def _first(data: dict[str, Any], good: str) -> str:
    if data["mark"] is None:
        return good
    part = data["parts"][data["mark"]]
    return f"The first module where that is not so is {part['name']}: {part['note']}."


def derivative_pictures(case: Training, seen: Any, target: Target) -> tuple[Picture, ...]:
    """For each module, how many of the parameters that move the loss have a gradient, and the right one."""
    if not isinstance(seen, Differentiated):
        return ()
    groups = [(names, has) for names, has in seen.groups]
    lost = [item.name for item in seen.wrong if item.got is None]
    off = [item.name for item in seen.wrong if item.got is not None]
    lost += [name for names, has in groups if not has for name in names]
    off += [name for names, has in groups if has for name in names]
    due = [name for name in seen.parameters if name not in seen.unused]
    data = _by_module(due, lost, off, ("lost", "off"))
    data |= {"expected": "move the loss", "got": "have its derivative"}
    unused = f" {len(seen.unused)} parameters that the loss does not depend on are left out." if seen.unused else ""
    description = (
        f"How many parameters of each module move the loss, and how many of them have its derivative as gradient. "
        f"{_first(data, 'All of them have it.')}{unused}{cut(len(data['parts']), data['of'], 'modules')}"
    )
    return (Picture("bars", "Parameters with their gradient, by module", description, data),)


def optimizer_pictures(case: Training, seen: Any, target: Target) -> tuple[Picture, ...]:
    """For each module, how many parameters get a gradient, and how many of them a step of the optimizer changes."""
    if not isinstance(seen, Optimized):
        return ()
    still = [name for name in seen.trained if name not in seen.changed]
    data = _by_module(seen.trained, still, (), ("not changed", ""))
    data |= {"expected": "get a gradient", "got": "are changed"}
    description = (
        f"How many parameters of each module get a gradient, and how many of them a step of an optimizer changes that "
        f"was made before the forward. {_first(data, 'All of them are changed.')}"
        f"{cut(len(data['parts']), data['of'], 'modules')}"
    )
    return (Picture("bars", "Parameters that the optimizer changes, by module", description, data),)
