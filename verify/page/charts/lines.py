"""The chart of values along steps: what is expected as an open line, what was seen as a full one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verify.page.charts.sheet import FIRST, WIDTH
from verify.page.palette import placeholder
from verify.page.svg import figure

#: By the number of a line: its role, dashes, width.
_LOOKS = (("promised", "solid", 5.0), ("seen", "solid", 1.6), ("ink", "dashed", 1.4), ("muted", "dotted", 1.6))


def lines(data: Mapping[str, Any]) -> Figure:
    """Draw ``lines`` of ``name`` and ``values`` (None where there is none), over steps from 0."""
    made = figure(WIDTH, 220)
    axes = made.add_axes((0.1, 0.2, 0.87, 0.66))
    for number, line in enumerate(data["lines"]):
        role, dashes, width = _LOOKS[number % len(_LOOKS)]
        values = [float("nan") if value is None else value for value in line["values"]]
        axes.plot(
            range(len(values)),
            values,
            color=placeholder(role),
            linestyle=dashes,
            linewidth=width,
            drawstyle="steps-mid" if data.get("steps") else "default",
            marker="o" if len(values) == 1 else "",
            solid_capstyle="butt",
            label=line["name"],
        )
    if data.get("stop") is not None:
        axes.axvline(data["stop"] - 0.5, color=placeholder("muted"), linewidth=0.8, linestyle="dashed")
        axes.annotate("stopped here", (data["stop"] - 0.5, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -9),
                      textcoords="offset points", color=placeholder("muted"))  # fmt: skip
    axes.set_xlabel(data["across"], color=placeholder("muted"))
    axes.set_title(data["up"], color=placeholder("muted"), loc="left", size=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if data.get("whole"):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.08)
    mark = data.get("mark")
    if mark:
        _mark(axes, mark, data["lines"][mark["line"]]["values"])
    axes.tick_params(colors=placeholder("muted"), length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(placeholder("rule"))
    axes.patch.set_visible(False)
    made.legend(loc="upper right", ncols=4, frameon=False, labelcolor=placeholder("ink"), handlelength=2.2)
    return made


def _mark(axes: Any, mark: Mapping[str, Any], values: list[float | None]) -> None:
    """A ring around a value, or where there is none, around the place where it would be."""
    at = mark["at"]
    value = values[at] if at < len(values) else None
    known = [other for other in values if other is not None]
    height = value if value is not None else (max(known) if known else 0.0)
    ring = axes.plot([at], [height], marker="o", markersize=11, markerfacecolor="none", markeredgewidth=2.0,
                     markeredgecolor=placeholder("wrong"), linestyle="none", clip_on=False)  # fmt: skip
    ring[0].set_gid(FIRST)
    early, high = at <= len(values) / 2, height >= sum(axes.get_ylim()) / 2
    axes.annotate(
        mark["text"],
        (at, height),
        xytext=(9 if early else -9, -14 if high else 9),
        textcoords="offset points",
        color=placeholder("wrong"),
        weight="bold",
        annotation_clip=False,
        ha="left" if early else "right",
    )
