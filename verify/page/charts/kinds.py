"""From a picture's kind to its chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from verify.page.charts.bars import bars
from verify.page.charts.lines import lines
from verify.page.charts.matrix import matrix
from verify.page.charts.schedule import schedule
from verify.page.charts.sequences import sequences
from verify.page.reading import Picture
from verify.page.svg import as_svg, drawing

KINDS: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "schedule": schedule,
    "lines": lines,
    "matrix": matrix,
    "bars": bars,
    "sequences": sequences,
}


def chart(picture: Picture, name: str) -> str | None:
    """A picture as an SVG element whose ids begin with ``name``; None where its kind or its data are unknown here."""
    draw = KINDS.get(picture.kind)
    if draw is None:
        return None
    try:
        with drawing():
            return as_svg(draw(picture.data), picture.title, picture.description, name)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None  # of another version, or made by hand: its description is shown in its place
