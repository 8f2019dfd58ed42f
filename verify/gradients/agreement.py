"""Comparisons of autograd's gradients with differences of the loss; each raises a ``Violation`` that stands alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from verify.engine.finding import Violation
from verify.engine.place import Place
from verify.gradients.observation import Differentiated, Wrong
from verify.gradients.released import Compared
from verify.tensors.describe import describe_tensor
from verify.tensors.tolerance import distance

#: Names that a finding lists of a group.
_LISTED = 40


def _got(item: Wrong) -> str:
    return "none" if item.got is None else f"{item.got:.6g}"


def _ratio(item: Wrong) -> str:
    return "" if not item.got else f", {item.got / item.expected:.4g} of it" if item.expected else ""


def table(wrong: Sequence[Wrong]) -> list[list[object]]:
    """The parameters at fault, with both derivatives."""
    rows: list[list[object]] = [["parameter", "module", "by autograd", "by differences", "error"]]
    for item in wrong:
        rows.append([item.name, item.module, _got(item), f"{item.expected:.6g}", f"{item.error:.1g}"])
    return rows


def details(seen: Differentiated, wrong: Sequence[Wrong], groups: Sequence[Sequence[str]]) -> str:
    """Where to look: forwards of the modules at fault, lines that stop gradients; and what has none by right."""
    lines: list[str] = [
        f"{place or 'no forward of its own'}: the forward that uses {names}" for place, names in _by_place(wrong)
    ]
    lines += [f"a value goes on without its gradient: {stop}" for stop in seen.stops]
    for group in groups:
        lines.append(f"not told apart, some of: {', '.join(group[:_LISTED])}" + ", …" * (len(group) > _LISTED))
    for words, names in (("frozen", seen.frozen), ("the loss does not depend on", seen.unused)):
        if names:
            lines.append(f"without a gradient by right, {words}: {', '.join(names[:_LISTED])}")
    return "\n".join(lines)


def _by_place(wrong: Sequence[Wrong]) -> list[tuple[Place | None, str]]:
    places: dict[Place | None, list[str]] = {}
    for item in wrong:
        places.setdefault(item.place, []).append(item.name)
    return [(place, ", ".join(names)) for place, names in places.items()]


def _stopped(seen: Differentiated) -> str:
    """Where values go on without their gradients: what is found may be due to it."""
    more = f" and {len(seen.stops) - 1} more lines" if len(seen.stops) > 1 else ""
    return f". A value goes on without its gradient in {seen.stops[0]}{more}" if seen.stops else ""


def _count(wrong: Sequence[Wrong], groups: Sequence[Sequence[str]]) -> str:
    """How many more there are, in words."""
    more = len(wrong) - 1
    told = f"; so {more} more" if more else ""
    return told + (f", and some of {sum(map(len, groups))} others" if groups else "")


def assert_no_gradient_lost(seen: Differentiated) -> None:
    """No parameter that moves the loss is without a gradient."""
    wrong = [item for item in seen.wrong if item.got is None]
    groups = [group for group, has in seen.groups if not has]
    if not wrong:
        return
    first = wrong[0]
    raise Violation(
        f"{first.name}: no gradient, though the loss moves by {first.expected:.4g} along a direction of it"
        f"{_count(wrong, groups)}{_stopped(seen)}",
        tensor=first.name,
        expected=f"a derivative of {first.expected:.6g} ± {first.error:.1g}, by differences of the loss",
        got="no gradient, or nothing but zeros",
        table=table(wrong),
        details=details(seen, wrong, groups),
        place=first.place,
    )


def assert_derivative(seen: Differentiated) -> None:
    """Every gradient that there is, is the derivative of the loss."""
    wrong = [item for item in seen.wrong if item.got is not None]
    groups = [group for group, has in seen.groups if has]
    if not wrong:
        return
    first = wrong[0]
    raise Violation(
        f"{first.name}: the gradient is not the derivative of the loss: {first.got:.6g} along a direction of it, where "
        f"the loss moves by {first.expected:.6g}{_count(wrong, groups)}{_stopped(seen)}",
        tensor=first.name,
        expected=f"{first.expected:.8g} ± {first.error:.1g}, by differences of the loss",
        got=f"{_got(first)} by autograd{_ratio(first)}",
        table=table(wrong),
        details=details(seen, wrong, groups),
        place=first.place,
    )


def assert_as_released(seen: Compared) -> None:
    """The target's one-frame forward gives the outputs and the gradients of the released sam3, up to rounding."""
    frames = list(zip(seen.target.outputs, seen.released.outputs, strict=True))
    for frame, (ours, released) in enumerate(frames):
        for name in sorted(ours.keys() | released.keys()):
            _assert_near(seen, name, ours.get(name), released.get(name), f"{name} of a frame alone", frame)
    ours, released = seen.target.gradients, seen.released.gradients
    off = [
        name
        for name in sorted(ours.keys() | released.keys())
        if not _near(seen, ours.get(name), released.get(name), name)
    ]
    if off:
        listed = ", ".join(off[1:_LISTED])
        more = f" (and {len(off) - 1} more: {listed})" if listed else ""
        _assert_near(seen, off[0], ours.get(off[0]), released.get(off[0]), f"the gradient in {off[0]}{more}", None)


def _near(seen: Compared, ours: torch.Tensor | None, released: torch.Tensor | None, name: str) -> bool:
    if ours is None or released is None:
        return ours is released
    return ours.shape == released.shape and distance(released, ours) <= seen.allowed.get(name, 0.0)


def _assert_near(
    seen: Compared, name: str, ours: torch.Tensor | None, released: torch.Tensor | None, what: str, frame: int | None
) -> None:
    if _near(seen, ours, released, name):
        return
    raise Violation(
        f"{what} is not what {seen.release} computes under the same weights",
        frame=frame,
        tensor=name,
        expected="none"
        if released is None
        else f"{describe_tensor(released)}, within {seen.allowed.get(name, 0.0):.3g}",
        got="none" if ours is None else describe_tensor(ours),
    )
