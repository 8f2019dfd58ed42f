"""Pictures on their way: from a check's hook through the judge into the report; and what they must never do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from fixtures.ranks import RanksFailed
from verify.engine.check import THREADS, Check
from verify.engine.finding import NotCovered, Violation
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.picture import LARGEST, Picture, sequences, travels, window
from verify.engine.report import Report, environment
from verify.engine.result import FAILED, PASSED, SKIPPED, Result, merged, result_from_json
from verify.engine.written import write_files
from verify.target.naming import Target

PICTURE = Picture("lines", "title", "What is to be seen.", {"values": [1, None, 2.5]})


@dataclass(frozen=True)
class Number:
    value: int
    world_size: int = 1

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value}


def from_json(data: Any) -> Number:
    return Number(**data)


def told(case: Number, seen: Any, target: Any) -> tuple[Picture, ...]:
    return (replace(PICTURE, data={"case": case.value, "seen": str(seen)}),)


def check_of(
    body: Callable[..., bool | None],
    pictures: Any = told,
    shows: Any = None,
    observe: Callable[..., Any] = lambda ranks, target, case: case.value * 10,
) -> Check:
    return Check(
        "test_numbers",
        "schedule",
        "requirement",
        body,
        lambda target, sizes: st.builds(Number, st.integers(0, 100)),
        observe,
        from_json,
        (THREADS,),
        lambda target: None,
        1,
        "numbers",
        pictures=pictures,
        shows=shows,
    )


def judged(check: Check) -> Result:
    launchers = Launchers()
    try:
        return Gate(Target("sam3"), launchers).judge(check, THREADS)
    finally:
        launchers.close()


def too_large(case: Number, observe: Callable[[Number], int], target: Any) -> None:
    if observe(case) > 70:
        raise Violation("too large")


def fine(case: Number, observe: Callable[[Number], int], target: Any) -> None:
    observe(case)


def test_the_smallest_case_that_violates_is_pictured() -> None:
    result = judged(check_of(too_large))
    assert result.finding is not None
    assert [picture.data for picture in result.pictures] == [{"case": 8, "seen": "80"}]
    assert result.finding.case == {"value": 8}


def test_of_cases_that_pass_the_one_that_shows_most_is_pictured() -> None:
    tried: list[int] = []

    def body(case: Number, observe: Callable[[Number], int], target: Any) -> None:
        tried.append(observe(case) // 10)

    result = judged(check_of(body, shows=lambda case: case.value))
    assert [picture.data["case"] for picture in result.pictures] == [max(tried)]
    assert judged(check_of(fine)).pictures == (), "a check that passes has pictures only where it says what shows most"


def test_a_case_that_was_observed_in_another_form_is_pictured_in_that() -> None:
    def body(case: Number, observe: Callable[[Number], int], target: Any) -> None:
        observe(case)
        observe(replace(case, value=case.value + 1000))

    result = judged(check_of(body, shows=lambda case: 0))
    assert all(picture.data["case"] >= 1000 for picture in result.pictures)
    assert result.pictures


def test_ranks_that_failed_are_given_in_place_of_an_observation() -> None:
    def fails(ranks: Any, target: Any, case: Number) -> Any:
        raise RanksFailed("rank 0 raised nothing")

    result = judged(check_of(fine, observe=fails))
    assert (result.outcome, result.pictures[0].data["seen"]) == (FAILED, "rank 0 raised nothing")


def _raises(error: BaseException) -> Callable[..., Any]:
    def hook(*_: Any) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    "hook",
    [
        _raises(ValueError("a defect")),
        _raises(SystemExit(0)),
        _raises(KeyboardInterrupt()),
        _raises(NotCovered("no")),
        _raises(Violation("no")),
        _raises(pytest.fail.Exception("time is up")),
        lambda *_: None,
        lambda *_: 3,
        lambda *_: ["no picture", object()],
        lambda *_: [replace(PICTURE, data={"values": [float("nan")]})],
        lambda *_: [replace(PICTURE, data={"values": object()})],
        lambda *_: [replace(PICTURE, data={"values": "x" * LARGEST})],
    ],
)
@pytest.mark.parametrize(("body", "outcome"), [(too_large, FAILED), (fine, PASSED)])
def test_a_hook_that_does_anything_costs_the_picture_alone(hook: Any, body: Callable[..., Any], outcome: str) -> None:
    plain = judged(check_of(body, pictures=None))
    result = judged(check_of(body, pictures=hook, shows=lambda case: case.value))
    assert result.pictures == ()
    # How many cases come before the smallest is not compared: hypothesis draws numbers of the modules that are loaded.
    said, plainly = ((of.reason, of.finding and (of.finding.message, of.finding.case)) for of in (result, plain))
    assert said == plainly
    assert result.outcome == plain.outcome == outcome


def test_a_measure_of_what_shows_most_that_raises_costs_nothing_else() -> None:
    result = judged(check_of(fine, shows=_raises(ValueError("no"))))
    assert (result.outcome, len(result.pictures)) == (PASSED, 1), "the first case that passed"


def test_the_users_interrupt_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("illustration", "judge"):
        monkeypatch.setattr(f"verify.engine.{module}.by_the_user", lambda error: isinstance(error, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        judged(check_of(too_large, pictures=_raises(KeyboardInterrupt())))


def test_a_check_that_is_skipped_has_no_pictures() -> None:
    def body(case: Number, observe: Callable[[Number], int], target: Any) -> None:
        observe(case)
        raise NotCovered("cannot be told")

    result = judged(check_of(body, shows=lambda case: 0))
    assert (result.outcome, result.pictures) == (SKIPPED, ())


def test_what_hangs_is_not_observed_again() -> None:
    observed: list[int] = []

    def fails_for_large(ranks: Any, target: Any, case: Number) -> Any:
        observed.append(case.value)
        if case.value > 7:
            raise RanksFailed("they hang")
        return case.value

    judged(check_of(fine, observe=fails_for_large))
    failing = [value for value in observed if value > 7]
    assert len(failing) == len(set(failing))


def test_pictures_travel_as_json_and_the_worst_part_gives_them() -> None:
    passed = Result("test_a", "schedule", "requirement", PASSED, pictures=(replace(PICTURE, title="passed"),))
    failed = Result("test_a", "schedule", "requirement", FAILED, pictures=(PICTURE,))
    assert result_from_json(json.loads(json.dumps(failed.as_json()))) == failed
    before = {name: value for name, value in failed.as_json().items() if name != "pictures"}
    assert result_from_json(before).pictures == (), "what was written before there were pictures"
    assert merged([passed, failed]).pictures == (PICTURE,)
    assert merged([passed, replace(failed, pictures=())]).pictures == (), "what passed is no picture of what failed"
    assert travels(PICTURE)


@pytest.mark.parametrize(
    ("count", "at", "shown"),
    [(5, None, (0, 5)), (50, None, (0, 10)), (50, 49, (40, 50)), (50, 20, (16, 26)), (0, None, (0, 0))],
)
def test_a_window_is_around_the_first_difference(count: int, at: int | None, shown: tuple[int, int]) -> None:
    assert window(count, at, 10) == shown


@pytest.mark.parametrize(
    ("issued", "mismatch"),
    [
        ([["a", "b"], ["a", "b"]], None),
        ([["a", "b"], ["a", "c"]], 1),
        ([["a"], ["a", "b"]], 1),
        ([[], []], None),
        ([["a"] * 30 + ["b"], ["a"] * 31], 30),
    ],
)
def test_the_first_mismatch_of_sequences(issued: list[list[str]], mismatch: int | None) -> None:
    data = sequences(issued, [[""] * len(of_rank) for of_rank in issued])
    assert data["mismatch"] == mismatch
    if mismatch is not None:
        assert data["first"] <= mismatch


def _report(*results: Result) -> Report:
    target = {"spec": "sam3", "builder": None, "origin": "", "sam3": {"version": "", "commit": None, "folder": ""}}
    return Report({**target, "subjects": []}, environment("gloo", None, "quick", 0), results, "conforms", "all is well")


def test_a_page_that_cannot_be_made_leaves_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verify.page import render

    as_json, as_page = tmp_path / "report.json", tmp_path / "page.html"
    monkeypatch.setattr(render, "page", _raises(ZeroDivisionError("a defect")))
    said = write_files(_report(), as_json, as_page)
    assert "the page could not be made, which is a defect of the gate: ZeroDivisionError: a defect" in said
    assert "\n" not in said
    assert json.loads(as_json.read_text())["verdict"] == "conforms"
    monkeypatch.undo()
    (tmp_path / "page.html").mkdir()
    assert "page.html cannot be written: Is a directory" in write_files(_report(), as_json, as_page)
    assert write_files(_report(), None, None) == ""


def test_a_page_is_written_of_whatever_names_and_messages_hold(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    odd = replace(_report(), because="half \ud83d a <script> \x00")
    assert write_files(odd, None, page) == ""
    assert "half \ufffd a &lt;script&gt; \ufffd" in page.read_text(encoding="utf-8")


def test_a_case_whose_time_is_up_is_not_run_again() -> None:
    observed: list[int] = []

    def slow(ranks: Any, target: Any, case: Number) -> int:
        observed.append(case.value)
        if case.value > 30:
            raise pytest.fail.Exception("Timeout")
        return case.value

    def body(case: Number, observe: Callable[[Number], int], target: Any) -> None:
        if observe(case) > 10:
            raise Violation("too large")

    check = check_of(body, observe=slow)
    result = judged(check)
    assert result.outcome == FAILED
    assert sum(value > 30 for value in observed) <= 1, "the clock runs out once, and is not set again"
