"""The page beside a job: what it holds, and that text of a target's is nothing but text in it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.ci.reports import HOSTILE, PLACE, blocked, failed, report
from verify.ci.job_summary import MOST, job_summary, text
from verify.engine.check import HAZARD
from verify.engine.report import Counts
from verify.engine.result import INHERITED, NOT_PROVIDED, PASSED, Result

COUNTS = Counts()
_CELLS = 6


def _rows(page: str) -> list[list[str]]:
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def _unfenced(page: str) -> str:
    """A page without its blocks of code, read as CommonMark does."""
    kept, fence = [], ""
    for line in page.split("\n"):
        opened = re.match(r" {0,3}(`{3,})([^`]*)$", line)
        if fence:
            if opened and len(opened[1]) >= len(fence) and not opened[2].strip():
                fence = ""
        elif opened:
            fence = opened[1]
        else:
            kept.append(line)
    assert not fence, page
    return "\n".join(kept)


def test_it_says_the_verdict_the_causes_what_did_not_pass_and_how_to_run_it_again() -> None:
    results = [
        Result("test_fine", "schedule", "requirement", PASSED, cases=3),
        failed("test_b", message="wrong", rank=1, call=2, frame=3, tensor="pred_logits", place=PLACE),
        blocked("test_c", "test_b"),
        replace(failed("test_h"), kind=HAZARD),
        failed("test_old", INHERITED),
        Result("test_n", "schedule", "requirement", NOT_PROVIDED, reason="has none"),
    ]
    page = job_summary(report(*results, notes=("a note",), statements=("a fact",)), COUNTS)
    assert "## sam3: violates\n\n1 failed\n" in page
    assert "- `test_b`: wrong. Blocks 1: `test_c`" in page
    rows = _rows(page)
    assert [row[0] for row in rows] == ["`test_b`", "`test_c`", "`test_h`", "`test_old`", "`test_n`"]
    assert rows[0][2:] == [
        "failed",
        "rank 1, call 2, frame 3, tensor pred&#95;logits",
        "/fork/pkg/a.py&#58;12",
        "wrong",
    ]
    assert "test_fine" not in page
    assert "hazard" in rows[2][2]
    for check in ("test_b", "test_h", "test_old"):
        assert re.search(rf"^```\npython -m pytest verify .*--only {check} .*\n```$", page, re.MULTILINE)
    assert "- a note\n- a fact\n" in page


@pytest.mark.parametrize("said", HOSTILE)
def test_what_a_target_says_is_text(said: str) -> None:
    result = replace(failed(message=said, replay=said, tensor=said), subject=said, check="test_a")
    page = job_summary(
        report(result, blocked(said, said), notes=(said,), because=said, target={"spec": said, "sam3": None}), COUNTS
    )
    plain = job_summary(report(failed(), blocked("test_a", "test_b"), notes=("n",)), COUNTS)
    shown = _unfenced(page)
    assert all(len(row) == _CELLS for row in _rows(shown)), shown
    assert [line for line in shown.split("\n") if line.startswith("#")][1:] == [
        line for line in _unfenced(plain).split("\n") if line.startswith("#")
    ][1:]
    for special in ("<", ">", "@", "![", "](", "https:", "http:", "\x1b", "\r", "*b*", "$x"):
        assert special not in shown, shown
    page.encode()  # what cannot be written would be lost


def test_code_is_not_ended_by_what_is_in_it() -> None:
    page = job_summary(report(failed(replay="a\n```\n<b>\n`````\nc")), COUNTS)
    assert "<b>" not in _unfenced(page)
    assert "``````\na\n```\n<b>\n`````\nc\n``````\n" in page


@pytest.mark.parametrize("room", [0, 100, 500, 3000, MOST])
def test_it_takes_less_room_than_there_is(room: int) -> None:
    many = [failed(f"test_{number}", message="é" * 5000, replay=f"{number} " + "r" * 5000) for number in range(400)]
    page = job_summary(report(*many), COUNTS, room)
    assert len(page.encode()) < max(room, 1)
    assert room < 500 or "More is left out here" in page
    assert not room or "violates" in page or room == 100
    _unfenced(page)


def test_text_is_one_line() -> None:
    assert "\n" not in text("a\nb\r\nc\rd")
    assert text("a|b`c<d>&") == "a&#124;b&#96;c&#60;d&#62;&#38;"
