"""The chart of a scan: calls from left to right; what is detected, answered and held, promised beside seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from verify.page.charts.sheet import WIDTH, Sheet, short

_LEFT, _ROW, _HELD, _GAP = 104.0, 16.0, 10.0, 12.0
_WIDEST = 46.0
#: Rows of frames that are drawn of what is held; the nearest ones of a longer list.
_FRAMES = 26


def _listed(frames: Sequence[int]) -> str:
    return " ".join(map(str, frames))


def schedule(data: Mapping[str, Any]) -> Figure:
    """Draw what ``verify.buffer.pictures.schedule_picture`` gives."""
    calls, ranks, held = data["calls"], data["ranks"], data["held"]
    rows = 2 + sum(1 + (rank["promised"] is not None) for rank in ranks) + len(ranks)
    frames = _frames_of(held) if held else []
    height = 8 + rows * _ROW + 3 * (_GAP + _ROW) + len(frames) * _HELD + 44
    sheet = Sheet(height)
    cell = min(_WIDEST, (WIDTH - _LEFT - 4) / max(1, len(calls)))
    right = _LEFT + cell * len(calls)
    y = 4.0
    _row(sheet, y, cell, "call", [str(data["first_call"] + number) for number in range(len(calls))], "muted")
    y += _ROW
    _row(sheet, y, cell, "frame asked for", [str(frame) for frame in calls], "ink", bold=True)
    y += _ROW
    y = _section(sheet, y, right, "frames detected during the call")
    for rank in ranks:
        for words, key in (("promised", "promised"), ("seen", "seen")):
            if rank[key] is None:
                continue
            label = f"rank {rank['rank']}  {words}"
            _cells(sheet, y, cell, label, rank[key], key, padding=rank.get("padding", ()))
            _mark(sheet, data, "detected" if key == "seen" else "", rank["rank"], y, cell)
            y += _ROW
    y = _section(sheet, y, right, "frame that the answer is of")
    for rank in ranks:
        answered = [[] if frame is None else [frame] for frame in rank["answered"]]
        _cells(sheet, y, cell, f"rank {rank['rank']}  seen", answered, "seen", empty="none")
        _mark(sheet, data, "answered", rank["rank"], y, cell)
        y += _ROW
    if held:
        y = _section(sheet, y, right, f"frames in the buffer after the call, rank {held['rank']}")
        top = y
        for frame in frames:
            sheet.words(_LEFT - 6, y + _HELD / 2, str(frame), "muted", "right", 7.5)
            for number in range(len(calls)):
                box = (_LEFT + number * cell + 1.5, y + 1, cell - 3, _HELD - 2)
                seen = held["seen"][number]
                if seen is not None and frame in seen:
                    sheet.box(*box, fill="seen-soft")
                if frame in held["promised"][number]:
                    sheet.box(*box, edge="promised")
            y += _HELD
        for number in range(len(calls)):
            if held["seen"][number] is None:
                sheet.words(_LEFT + (number + 0.5) * cell, (top + y) / 2, "?", "muted")
        _mark(sheet, data, "held", held["rank"], top, cell, y - top)
    _legend(sheet, y + 10, data["difference"], bool(held))
    return sheet.drawn()


def _frames_of(held: Mapping[str, Any]) -> list[int]:
    every = {frame for frames in (*held["promised"], *held["seen"]) for frame in frames or ()}
    return sorted(every)[:_FRAMES]


def _section(sheet: Sheet, y: float, right: float, words: str) -> float:
    sheet.box(0, y + _GAP / 2, right, 0, edge="rule")
    sheet.words(0, y + _GAP + _ROW / 2 - 2, words, "muted", "left")
    return y + _GAP + _ROW


def _row(sheet: Sheet, y: float, cell: float, label: str, texts: Sequence[str], role: str, bold: bool = False) -> None:
    sheet.words(_LEFT - 6, y + _ROW / 2, label, role, "right")
    for number, text in enumerate(texts):
        sheet.words(_LEFT + (number + 0.5) * cell, y + _ROW / 2, text, role, bold=bold)


def _cells(
    sheet: Sheet,
    y: float,
    cell: float,
    label: str,
    calls: Sequence[Sequence[int]],
    key: str,
    empty: str = "·",
    padding: Sequence[Sequence[int]] = (),
) -> None:
    sheet.words(_LEFT - 6, y + _ROW / 2, label, "ink" if key == "seen" else "muted", "right")
    for number, frames in enumerate(calls):
        box = (_LEFT + number * cell + 1.5, y + 1.5, cell - 3, _ROW - 3)
        if frames:
            sheet.box(*box, fill="seen-soft" if key == "seen" else "", edge="" if key == "seen" else "promised")
        again = padding[number] if key == "promised" and number < len(padding) else ()
        text = short(_listed(frames), cell - 2) if frames else f"({_listed(again)})" if again else empty
        sheet.words(box[0] + box[2] / 2, y + _ROW / 2, text, "ink" if frames else "muted")


def _mark(
    sheet: Sheet, data: Mapping[str, Any], what: str, rank: int, y: float, cell: float, height: float = _ROW
) -> None:
    difference = data["difference"]
    if difference and (difference["what"], difference["rank"]) == (what, rank):
        number = difference["call"] - data["first_call"]
        sheet.mark(_LEFT + number * cell, y, cell, height)


def _legend(sheet: Sheet, y: float, difference: Mapping[str, Any] | None, held: bool) -> None:
    sheet.box(0, y + 2, 14, 9, edge="promised")
    sheet.words(20, y + 6.5, "promised", "muted", "left")
    sheet.box(84, y + 2, 14, 9, fill="seen-soft")
    sheet.words(104, y + 6.5, "seen", "muted", "left")
    if difference is None:
        sheet.words(146, y + 6.5, "no difference", "muted", "left")
        return
    sheet.box(146, y + 2, 14, 9, edge="wrong", line=2.0)
    sheet.words(166, y + 6.5, "first difference", "wrong", "left", bold=True)
    seen, promised = difference["seen"], difference["promised"]
    text = f"call {difference['call']}, rank {difference['rank']}: {difference['what']} {seen}; promised {promised}"
    sheet.words(0, y + 22, short(text, WIDTH - 8), "ink", "left")
