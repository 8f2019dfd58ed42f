"""The chart of a table of numbers: the larger, the darker its cell; numbers that must not be there are marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from verify.page.charts.sheet import WIDTH, Sheet, room_for, short

_ROW = 19.0


def matrix(data: Mapping[str, Any]) -> Figure:
    """Draw ``values`` (rows by columns, None where there is none) under their names; ``wrong`` lists cells."""
    rows, columns, values = data["rows"], data["columns"], data["values"]
    left = room_for(rows)
    cell = min(64.0, (WIDTH - left - 4) / max(1, len(columns)))
    sheet = Sheet(34 + _ROW * len(rows) + 30)
    sheet.words(left, 8, data["across"], "muted", "left")
    for column, name in enumerate(columns):
        sheet.words(left + (column + 0.5) * cell, 24, short(name, cell), "muted")
    largest = max((value for row in values for value in row if value is not None), default=0.0)
    wrong = [tuple(cell) for cell in data["wrong"]]
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = 34 + number * _ROW
        sheet.words(left - 6, y + _ROW / 2, short(name, left - 8), "ink", "right")
        for column, value in enumerate(row):
            x = left + column * cell
            if value:
                # By area, as a colour by size could not be read on both grounds.
                size = (0.25 + 0.75 * (value / largest) ** 0.5) if largest else 0.25
                width = (cell - 3) * size
                sheet.box(
                    x + 1.5, y + 1.5, width, _ROW - 3, fill="wrong-soft" if (number, column) in wrong else "seen-soft"
                )
            text = "?" if value is None else "0" if value == 0 else f"{value:.2g}"
            sheet.words(x + cell / 2, y + _ROW / 2, text, "ink" if value else "muted")
            if wrong and (number, column) == wrong[0]:
                sheet.mark(x, y, cell, _ROW)
            elif (number, column) in wrong:
                sheet.box(x, y, cell, _ROW, edge="wrong")
    y = 34 + _ROW * len(rows) + 14
    if wrong:
        sheet.box(0, y - 4.5, 14, 9, edge="wrong", line=2.0)
        sheet.words(20, y, short(data["mark"], WIDTH - 24), "wrong", "left", bold=True)
    else:
        sheet.words(0, y, short(data["good"], WIDTH - 4), "muted", "left")
    return sheet.drawn()
