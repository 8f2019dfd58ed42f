"""The chart of numbers by part of a model: what is expected as an open bar, what came as a full one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from verify.page.charts.sheet import WIDTH, Sheet, room_for, short

_ROW, _BAR, _RIGHT = 24.0, 9.0, 92.0


def bars(data: Mapping[str, Any]) -> Figure:
    """Draw ``parts`` of ``name``, ``expected``, ``got``, ``note``; ``mark`` is the number of the first wrong one."""
    parts = data["parts"]
    left = room_for([part["name"] for part in parts])
    sheet = Sheet(26 + _ROW * len(parts) + 30)
    sheet.words(left, 8, data["across"], "muted", "left")
    largest = max((max(part["expected"], part["got"]) for part in parts), default=0.0) or 1.0
    room = WIDTH - left - _RIGHT
    for number, part in enumerate(parts):
        y = 20 + number * _ROW
        sheet.words(left - 8, y + _ROW / 2, short(part["name"], left - 8), "ink", "right")
        got, expected = room * part["got"] / largest, room * part["expected"] / largest
        wrong = number == data["mark"] or part["wrong"]
        if got > 0:
            sheet.box(left, y + (_ROW - _BAR) / 2, got, _BAR, fill="wrong-soft" if wrong else "seen-soft")
        if expected > 0:
            sheet.box(left, y + (_ROW - _BAR) / 2 - 2, expected, _BAR + 4, edge="promised")
        sheet.words(
            left + max(got, expected, 4) + 8, y + _ROW / 2, short(part["note"], _RIGHT + room - max(got, expected) - 8),
            "wrong" if wrong else "muted", "left", bold=wrong,
        )  # fmt: skip
        if number == data["mark"]:
            sheet.mark(left - 3, y + 2, max(got, expected, 4) + 5, _ROW - 4)
    y = 20 + _ROW * len(parts) + 16
    sheet.box(0, y - 4.5, 14, 9, edge="promised")
    sheet.words(20, y, data["expected"], "muted", "left")
    start = 34 + 5.6 * len(data["expected"])
    sheet.box(start, y - 4.5, 14, 9, fill="seen-soft")
    sheet.words(start + 20, y, data["got"], "muted", "left")
    if data["mark"] is not None:
        start += 40 + 5.6 * len(data["got"])
        sheet.box(start, y - 4.5, 14, 9, edge="wrong", line=2.0)
        sheet.words(start + 20, y, "first difference", "wrong", "left", bold=True)
    return sheet.drawn()
