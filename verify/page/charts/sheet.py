"""A sheet to draw boxes and words on, in points from its upper left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from verify.page.palette import placeholder
from verify.page.svg import figure

#: The width of every sheet: that of a column of text.
WIDTH = 480.0
#: What the first difference is called in the SVG.
FIRST = "first-difference"
Align = Literal["left", "center", "right"]
_Box = tuple[float, float, float, float]


@dataclass
class Sheet:
    """Boxes of one look become one path: a chart has hundreds."""

    height: float
    width: float = WIDTH
    _boxes: dict[tuple[str, str, float], list[_Box]] = field(default_factory=dict, init=False)
    _marks: list[_Box] = field(default_factory=list, init=False)
    _words: list[tuple[float, float, str, str, Align, float, bool]] = field(default_factory=list, init=False)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str = "", edge: str = "", line: float = 0.8
    ) -> None:
        """A box; ``fill`` and ``edge`` are roles of colours, "" for none."""
        self._boxes.setdefault((fill, edge, line), []).append((x, y, width, height))

    def mark(self, x: float, y: float, width: float, height: float) -> None:
        """Mark where the first difference is: by a thick frame, and by name."""
        self._marks.append((x, y, width, height))

    def words(
        self,
        x: float,
        y: float,
        text: str,
        role: str = "ink",
        align: Align = "center",
        size: float = 8.5,
        bold: bool = False,
    ) -> None:
        """Text with its middle at the height ``y``."""
        self._words.append((x, y, text, role, align, size, bold))

    def drawn(self) -> Figure:
        made = figure(self.width, self.height)
        axes = made.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        for order, ((fill, edge, line), boxes) in enumerate(self._boxes.items()):
            axes.add_patch(_patch(boxes, fill, edge, line, order))
        if self._marks:
            marked = _patch(self._marks, "", "wrong", 2.0, len(self._boxes))
            marked.set_gid(FIRST)
            axes.add_patch(marked)
        for x, y, text, role, align, size, bold in self._words:
            axes.text(
                x,
                y,
                text,
                color=placeholder(role),
                ha=align,
                va="center_baseline",
                size=size,
                weight="bold" if bold else "normal",
                zorder=1000,
            )
        return made


def _patch(boxes: list[_Box], fill: str, edge: str, line: float, order: int) -> PathPatch:
    paths = [Path([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], closed=True) for x, y, w, h in boxes]
    return PathPatch(
        Path.make_compound_path(*paths),
        facecolor=placeholder(fill) if fill else "none",
        edgecolor=placeholder(edge) if edge else "none",
        linewidth=line,
        zorder=10 + order,
        clip_on=False,
    )


def room_for(labels: Sequence[str]) -> float:
    """How wide a column of labels is, in points, with a gap at its right: longer ones are cut."""
    return min(196.0, 14 + 5.3 * max(map(len, labels), default=4))


def short(text: str, width: float, size: float = 8.5) -> str:
    """A text cut such that it fits into so many points."""
    most = max(1, int(width / (0.6 * size)))
    return text if len(text) <= most else text[: most - 1] + "…"
