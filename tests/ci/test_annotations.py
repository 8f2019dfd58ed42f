"""Marks on lines: one a cause, causes first, no more than GitHub shows, and only on files of the workspace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.ci.reports import HOSTILE, PLACE, blocked, failed, report
from tests.ci.runner import commands_in
from verify.ci.annotations import SHOWN, Annotation, annotations_of, path_within
from verify.engine.check import HAZARD
from verify.engine.place import Place
from verify.engine.report import Counts
from verify.engine.result import INHERITED, MISSING, NOT_APPLICABLE, PASSED, SKIPPED, XFAILED, XPASSED, Result

COUNTS = Counts()
WORKSPACE = Path("/fork")


def _levels(*results: Result, counts: Counts = COUNTS) -> list[str]:
    return [each.level for each in annotations_of(report(*results), counts)]


def test_a_mark_stands_on_the_line_and_says_how_to_see_it_again() -> None:
    (mark,) = annotations_of(report(failed(place=PLACE, rank=1, frame=3, expected="this", got="that")), COUNTS)
    (read,) = commands_in(mark.line(WORKSPACE))
    assert read.name == "error"
    assert read.properties == {"file": "pkg/a.py", "line": "12", "title": "test_coverage"}
    lines = read.message.split("\n")
    assert lines[:4] == ["wrong", "where: rank 1, frame 3", "expected: this", "got: that"]
    assert lines[-1].startswith("replay: python -m pytest verify")


@pytest.mark.parametrize("place", [None, Place("/elsewhere/a.py", 1, "f"), Place("/fork-of-another/a.py", 1, "f")])
def test_what_lies_elsewhere_has_no_position(place: Place | None) -> None:
    (mark,) = annotations_of(report(failed(place=place)), COUNTS)
    (read,) = commands_in(mark.line(WORKSPACE))
    assert set(read.properties) == {"title"}
    assert set(commands_in(mark.line(None))[0].properties) == {"title"}


def test_links_into_the_workspace_and_to_it_are_followed(tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    (fork / "pkg").mkdir(parents=True)
    (fork / "pkg" / "a.py").write_text("x = 1\n")
    (tmp_path / "link").symlink_to(fork)
    within = Place(str(fork / "pkg" / "a.py"), 1, "f")
    assert path_within(within, tmp_path / "link") == "pkg/a.py"
    assert path_within(Place(str(tmp_path / "link" / "pkg" / "a.py"), 1, "f"), fork) == "pkg/a.py"
    assert path_within(Place(str(fork / "pkg" / ".." / ".." / "b.py"), 1, "f"), fork / "pkg") is None


def test_levels() -> None:
    hazard = replace(failed("test_hazard"), kind=HAZARD)
    assert _levels(failed()) == ["error"]
    assert _levels(failed(outcome=XPASSED)) == ["error"]
    assert _levels(Result("test_a", "schedule", "requirement", MISSING)) == ["error"]
    lacking = Result("test_a", "schedule", "requirement", SKIPPED)
    assert (_levels(lacking), _levels(lacking, counts=Counts(required=("test_a",)))) == ([], ["error"])
    assert _levels(hazard) == ["warning"]
    assert _levels(hazard, counts=Counts(hazards=True)) == ["error"]
    assert _levels(failed(outcome=INHERITED)) == ["notice"]
    assert _levels(failed(outcome=INHERITED), counts=Counts(inherited=True)) == ["error"]
    for outcome in (PASSED, NOT_APPLICABLE, SKIPPED, XFAILED):
        assert _levels(failed(outcome=outcome)) == [], outcome
    assert _levels(failed(), hazard, failed("test_old", INHERITED)) == ["error", "warning", "notice"]


def test_causes_come_first_and_what_they_block_is_not_marked() -> None:
    results = [failed("test_a", place=PLACE, message="other"), failed("test_b"), blocked("test_c", "test_b")]
    first, second = annotations_of(report(*results), COUNTS)
    assert (first.title, second.title) == ("test_b", "test_a")
    assert "blocks 1: test_c" in first.message


def test_what_is_blocked_by_a_check_that_was_not_made_is_marked_once() -> None:
    (mark,) = annotations_of(report(blocked("test_a", "test_base"), blocked("test_b", "test_base")), COUNTS)
    assert (mark.level, mark.title, mark.place) == ("error", "test_a and 1 more", None)
    assert "rests on test_base" in mark.message


def test_the_same_of_the_same_place_is_one_mark() -> None:
    same = [failed(f"test_{name}", place=PLACE) for name in "abc"]
    other = failed("test_d", place=replace(PLACE, line=13))
    titles = [each.title for each in annotations_of(report(*same, other), COUNTS)]
    assert titles == ["test_a and 2 more", "test_d"]


@pytest.mark.parametrize("level", ["error", "warning"])
def test_no_more_than_github_shows_and_the_last_says_how_many_are_left(level: str) -> None:
    many = [failed(f"test_{number}", message=f"wrong {number}") for number in range(SHOWN + 3)]
    made = annotations_of(
        report(*(replace(each, kind=HAZARD) if level == "warning" else each for each in many)), COUNTS
    )
    assert [each.level for each in made] == [level] * SHOWN
    assert made[-1].title == "4 more"
    assert f"test_{SHOWN + 2}" in made[-1].message
    assert len(annotations_of(report(*many[:SHOWN]), COUNTS)) == SHOWN


@pytest.mark.parametrize("said", HOSTILE)
def test_what_a_target_says_stays_within_its_mark(said: str) -> None:
    place = Place(f"/fork/{said.replace('/', '')}.py", 3, said)
    result = failed(message=said, place=place, expected=said, got=said, tensor=said)
    (mark,) = annotations_of(report(replace(result, subject=said)), COUNTS)
    (read,) = commands_in(mark.line(WORKSPACE))
    assert read.name == "error"
    assert set(read.properties) == {"file", "line", "title"}
    assert read.properties["line"] == "3"


def test_long_messages_are_cut() -> None:
    line = Annotation("error", "t" * 9000, "m" * 10**6).line(None)
    assert len(line) < 5000
