"""The page of a report: all of it is there, nothing of it is taken for code, and nothing else is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.page.reports import KINDS, NASTY, check, finding, picture, report
from verify.page.reading import NotAReport, report_of
from verify.page.render import page

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())


class _Read(HTMLParser):
    """The tags of a page, its text, and what it refers to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.references: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.references.append(value or "")
            assert not name.startswith("on"), f"{tag} has {name}"

    def handle_data(self, data: str) -> None:
        self.text += data


def made(data: Mapping[str, Any]) -> tuple[str, _Read]:
    html = page(report_of(json.loads(json.dumps(data))))
    return html, _Read(html)


def test_reports_with_and_without_pictures_keep_to_the_schema() -> None:
    grown = report()
    jsonschema.validate(grown, SCHEMA)
    old = {**grown, "checks": [{k: v for k, v in one.items() if k != "pictures"} for one in grown["checks"]]}
    jsonschema.validate(old, SCHEMA)
    assert "<svg" not in made(old)[0]
    without_alternative = report(
        checks=[check("test_a", "passed", pictures=[{"kind": "lines", "title": "t", "data": {}}])]
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(without_alternative, SCHEMA)


def test_a_page_needs_nothing_else_and_runs_nothing() -> None:
    html, read = made(report())
    assert "script" not in read.tags
    assert not {"iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert all(reference.startswith(("#", "data:")) for reference in read.references), read.references
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html


def test_every_check_and_every_word_of_it_is_there() -> None:
    data = report()
    _, read = made(data)
    for one in data["checks"]:
        assert one["name"] in read.text
        if one["finding"]:
            assert one["finding"]["got"] in read.text
    shown = NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    for said in (data["because"], data["causes"][0]["message"], *data["notes"], data["checks"][0]["finding"]["replay"]):
        assert said.replace(NASTY, shown) in read.text
    assert "2.11.0" in read.text
    assert len(set(read.ids)) == len(read.ids), "two elements have one id"


def test_each_picture_is_drawn_with_its_alternative() -> None:
    _, read = made(report())
    assert read.tags.count("svg") == 2 * len(KINDS)
    for kind in KINDS:
        assert read.text.count(f"What a {kind} shows.") == 4  # twice in the SVG, twice below it


def test_what_passed_is_folded_by_group_and_what_failed_is_not() -> None:
    html, _ = made(report())
    outside = re.sub(r"<details.*?</details>|<wbr>", "", html, flags=re.S)
    assert "test_bad_schedule" in outside
    for name in ("test_good", "test_hazard", "test_inherited", "test_known<"):
        assert f">{name.rstrip('<')}</" not in outside.replace(" ", "")
    assert re.search(r"<details[^>]*>\s*<summary>.*?schedule.*?1 check, 5 cases, 1\.2 s", html, re.S)


def test_an_unknown_outcome_or_verdict_is_no_pass() -> None:
    html, _ = made(report(verdict="glorious", checks=[check("test_new", "splendid"), check("test_old", "passed")]))
    assert re.search(r'<span class="status bad"><span aria-hidden="true">\?</span> splendid', html)
    assert re.search(r'class="verdict bad"', html)


def test_the_same_report_gives_the_same_bytes() -> None:
    assert made(report())[0] == made(report())[0]


def test_an_unknown_picture_leaves_its_description() -> None:
    one = check(
        "test_a", "failed", finding=finding("test_a"), pictures=[{**picture("lines"), "kind": "hologram"}, {"kind": 3}]
    )
    html, read = made(report(checks=[one]))
    assert "<svg" not in html
    assert "What a lines shows. (Not drawn here.)" in read.text


def test_twenty_findings_with_the_largest_pictures_make_a_page_of_two_megabytes_at_most() -> None:
    calls = list(range(12))
    rank = {"promised": [[c, c + 1] for c in calls], "seen": [[c, c + 1] for c in calls], "answered": calls}
    held = {"rank": 0, "promised": [list(range(24)) for _ in calls], "seen": [list(range(24)) for _ in calls]}
    data = {"first_call": 0, "calls": calls, "ranks": [{"rank": r, **rank} for r in range(4)], "held": held}
    data["difference"] = {"what": "held", "rank": 0, "call": 3, "promised": "x" * 300, "seen": "y" * 300}
    large = [picture("schedule", data=data), *(picture(kind, differs=True) for kind in KINDS)]
    failing = [check(f"test_{n}", "failed", finding=finding(f"test_{n}", details="d" * 50_000), pictures=large)
               for n in range(20)]  # fmt: skip
    html, read = made(report(checks=failing))
    assert len(html.encode()) < 2 * 2**20
    assert read.text.count("What a schedule shows.") >= 20, "a picture without room leaves its description"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "it is not an object"),
        (None, "it is not an object"),
        ({}, "target is missing"),
        (report(target={}), r"target\.spec is missing"),
        (report(verdict=3), "verdict is not what a report has there"),
        (report(checks={}), "checks is not what a report has there"),
        (report(checks=["a"]), r"checks\[0\] is not an object"),
        (report(checks=[{"name": "a"}]), r"checks\[0\]\.\w+ is missing"),
        (report(checks=[check("a", "passed", cases=True)]), r"checks\[0\]\.cases is not"),
        (report(checks=[check("a", "failed", finding={})]), r"checks\[0\]\.finding\.\w+ is missing"),
        (report(causes=[{"check": "a", "message": "b", "blocks": [1]}]), r"causes\[0\]\.blocks\[0\] is not text"),
        (report(notes=[None]), r"notes\[0\] is not text"),
    ],
)
def test_what_is_no_report_is_refused_by_the_field(data: Any, says: str) -> None:
    with pytest.raises(NotAReport, match=says):
        report_of(data)
