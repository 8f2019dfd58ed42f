"""The chart of what each rank issued, in order from above: a column for each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from verify.page.charts.sheet import WIDTH, Sheet, short

_LEFT, _ROW = 30.0, 18.0
#: Ranks side by side; more would leave no room for words.
RANKS = 4


def sequences(data: Mapping[str, Any]) -> Figure:
    """Draw ``ranks`` with what each ``issued``; ``mismatch`` is the number of the first that is not the same on all."""
    ranks, first, at = data["ranks"][:RANKS], data["first"], data["mismatch"]
    longest = max((len(rank["issued"]) for rank in ranks), default=0)
    if at is not None:
        longest = max(longest, at - first + 1)
    column = (WIDTH - _LEFT) / max(1, len(ranks))
    sheet = Sheet(24 + longest * _ROW + 34)
    for number, rank in enumerate(ranks):
        x = _LEFT + number * column
        sheet.words(x + 4, 10, short(f"rank {rank['rank']}: {rank['of']} in all", column - 6), "muted", "left")
        for row in range(longest):
            y = 22 + row * _ROW
            issued = rank["issued"][row] if row < len(rank["issued"]) else None
            differs = at is not None and row + first == at
            if issued is not None:
                sheet.box(x + 1.5, y + 1.5, column - 5, _ROW - 3, fill="wrong-soft" if differs else "seen-soft")
            text = "nothing more" if issued is None else issued
            if issued is not None or row + first <= rank["of"]:
                sheet.words(
                    x + 6, y + _ROW / 2, short(text, column - 12, 7.5), "ink" if issued else "muted", "left", 7.5
                )
    for row in range(longest):
        sheet.words(_LEFT - 6, 22 + (row + 0.5) * _ROW, str(first + row), "muted", "right")
    y = 22 + longest * _ROW + 14
    if at is None:
        sheet.words(0, y, "the same on all ranks", "muted", "left")
    else:
        sheet.mark(_LEFT, 22 + (at - first) * _ROW, WIDTH - _LEFT - 3, _ROW)
        sheet.box(0, y - 4.5, 14, 9, edge="wrong", line=2.0)
        sheet.words(20, y, f"number {at}: the first that is not the same on all ranks", "wrong", "left", bold=True)
    return sheet.drawn()
