"""Each kind of picture as SVG: an image with a text alternative, the first difference marked, the same bytes again."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.page.reports import KINDS, NASTY, picture
from verify.page.charts.kinds import KINDS as DRAWN
from verify.page.charts.kinds import chart
from verify.page.reading import Picture
from verify.page.svg import standing_alone

SVG = "{http://www.w3.org/2000/svg}"


def drawn(kind: str, differs: bool = False, name: str = "p", **changes: object) -> ElementTree.Element:
    svg = chart(Picture(**picture(kind, differs, **changes)), name)
    assert svg is not None
    return ElementTree.fromstring(svg)


def marks(svg: ElementTree.Element) -> list[str]:
    return [element.attrib["id"] for element in svg.iter() if element.attrib.get("id", "").endswith("first-difference")]


def words(svg: ElementTree.Element) -> str:
    return " | ".join(element.text or "" for element in svg.iter(f"{SVG}text"))


def test_every_kind_is_tried() -> None:
    assert set(KINDS) == set(DRAWN)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_difference_is_marked_once_and_named_in_words(kind: str) -> None:
    svg = drawn(kind, differs=True)
    assert marks(svg) == ["p-first-difference"]
    assert "first" in words(svg).lower(), words(svg)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_marked_where_nothing_differs(kind: str) -> None:
    svg = drawn(kind)
    assert marks(svg) == []
    assert "first" not in words(svg).lower(), words(svg)


@pytest.mark.parametrize("what", ["answered", "held", "detected"])
def test_a_difference_of_a_schedule_is_marked_whatever_it_is_in(what: str) -> None:
    data = picture("schedule")["data"]
    difference = {"what": what, "rank": 0, "call": 2, "promised": "frame 2", "seen": "frame 0"}
    assert len(marks(drawn("schedule", data={**data, "difference": difference}))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_an_image_with_a_text_alternative(kind: str) -> None:
    svg = drawn(kind)
    assert svg.attrib["role"] == "img"
    texts = {element.attrib["id"]: element.text for element in svg if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert [texts[name] for name in svg.attrib["aria-labelledby"].split()] == [f"A {kind}", f"What a {kind} shows."]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_is_the_same_bytes_again_whatever_the_settings_say(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    first = chart(Picture(**picture(kind, differs=True)), "p")
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red", "font.family": "serif"}
    ):
        assert chart(Picture(**picture(kind, differs=True)), "p") == first


@pytest.mark.parametrize("kind", KINDS)
def test_a_chart_has_text_in_any_font_and_colours_by_role_alone(kind: str) -> None:
    svg = chart(Picture(**picture(kind, differs=True)), "p")
    assert svg is not None
    assert "#01000" not in svg, "a placeholder is left"
    assert "DejaVu" not in svg
    assert "var(--chart-ink)" in svg
    root = ElementTree.fromstring(svg)
    assert root.find(f".//{SVG}text") is not None
    assert root.find(f".//{SVG}metadata") is None
    fills = [element.attrib.get("style", "") for element in root.iter(f"{SVG}path")]
    assert not any("#ffffff" in style for style in fills), "there is a white background"


@pytest.mark.parametrize("kind", KINDS)
def test_charts_of_a_page_have_ids_of_their_own(kind: str) -> None:
    ids = [
        {element.attrib["id"] for element in drawn(kind, differs=True, name=name).iter() if "id" in element.attrib}
        for name in ("one", "other")
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_what_is_drawn_may_hold_anything() -> None:
    data = picture("bars", differs=True)["data"]
    data["parts"][0]["name"] = data["expected"] = data["across"] = NASTY.replace("\x00", "").replace("\x1b", "")
    svg = drawn("bars", data=data, title="<&\"'", description="<script>")
    assert svg.find(f"{SVG}title").text == "<&\"'"  # type: ignore[union-attr]
    assert svg.find(f"{SVG}script") is None


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_another_version_is_not_drawn(kind: str) -> None:
    for data in ({}, {"parts": 3, "ranks": None, "lines": [{}], "rows": [1], "calls": "x"}, {"held": []}):
        assert chart(Picture(kind, "t", "d", data), "p") is None
    assert chart(Picture("hologram", "t", "d", {}), "p") is None


def test_a_file_of_its_own_brings_its_colours() -> None:
    svg = chart(Picture(**picture("schedule")), "p")
    assert svg is not None
    alone = standing_alone(svg)
    assert ElementTree.fromstring(alone).find(f"{SVG}style") is not None
    assert "prefers-color-scheme: dark" in alone
    assert 500 < int(ElementTree.fromstring(alone).attrib["width"]) < 800
