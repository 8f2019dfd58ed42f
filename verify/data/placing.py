"""Where boxes lie: on which objects of an image."""

from __future__ import annotations

from collections.abc import Iterable

from fixtures.synthetic.videos import SIZE, Shown

#: How far a box may lie off, in parts of the image: two pixels of the file, whose edges resizing blurs. From one frame
#: to the next objects move four at least in both directions.
NEAR = 2 / min(SIZE)


def distance(one: Iterable[float], other: Iterable[float]) -> float:
    """How far the sides of two boxes lie apart, at most."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def objects_at(box: Iterable[float], shown: Shown) -> list[int]:
    """Numbers of an image's objects that a box lies around."""
    corners = tuple(box)
    return [number for number, other in shown.boxes.items() if distance(corners, other) <= NEAR]
