"""The page in a browser: it opens from a file, asks for nothing, complains of nothing, and fits a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.page.browser import chromium, measured, opened
from tests.page.reports import KINDS, report
from verify.page.reading import report_of
from verify.page.render import page

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def html() -> str:
    chromium()
    return page(report_of(report()))


def test_it_opens_from_a_file_without_a_request_or_an_error(html: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    seen = opened(path)
    assert seen.console == ()
    assert "test_bad_schedule" in seen.content


def test_a_request_would_be_seen(html: str, tmp_path: Path) -> None:
    path = tmp_path / "asks.html"
    path.write_text(html.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'), encoding="utf-8")
    assert any("127.0.0.1:9" in line for line in opened(path).console)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_juts_out_and_every_picture_says_what_it_shows(width: int, html: str, tmp_path: Path) -> None:
    seen = measured(html, width, tmp_path)
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["over"] == []
    assert len(seen["images"]) == 2 * len(KINDS)
    for role, alternative, drawn in seen["images"]:
        assert role == "img"
        assert "What a" in alternative
        assert drawn >= 400, "a picture is too small to be read"


def test_what_juts_out_would_be_seen(html: str, tmp_path: Path) -> None:
    wide = html.replace("<main>", '<main><p style="width:700px">wide</p>')
    seen = measured(wide, 360, tmp_path)
    assert seen["scroll"] > 360
    assert any("P" in name for name in seen["over"])
