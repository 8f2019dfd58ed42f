"""Figures of matplotlib's as SVG that a page can hold: the same bytes each time, text as text, colours by role."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from verify.page import palette

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _LINK)
#: Whatever a reader has: charts are laid out with a wide font, so that others fit.
_FONT = "system-ui, sans-serif"
#: Points to an inch.
POINTS = 72.0
#: Pixels to a point, of an image that is shown as large as it was drawn.
_PIXELS = 4 / 3
#: Around a picture that stands alone, in points.
_MARGIN = 12.0
#: Names that matplotlib gives to everything, and that nothing refers to.
_COUNTED = re.compile(r"(figure|axes|patch|text|line2d|xtick|ytick|matplotlib\.axis|[A-Za-z]*Collection)_\d+$")
_FAMILY = re.compile(r"(font: [^;']*?[\d.]+px|font-family:) [^;]*")
#: Numbers that are more exact than anybody sees.
_LONG = re.compile(r"(\.\d\d)\d+")
#: A box as matplotlib writes it: it can be said in half as many words.
_BOX = re.compile(r"M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 L \1 \2 z")
#: What turns nothing, which every text has.
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw under matplotlib's own settings, whatever a user's files say, and such that every run gives the same."""
    own: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "sam3-video-verify",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8.5,
        "text.parse_math": False,
    }
    backend = {"backend", "backend_fallback"}
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({name: value for name, value in {**own, **settings}.items() if name not in backend}),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # readers have fonts of their own
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure without background, ``width`` and ``height`` in points."""
    made = Figure(figsize=(width / POINTS, height / POINTS), dpi=POINTS)
    made.patch.set_visible(False)
    FigureCanvasSVG(made)
    return made


def as_svg(drawn: Figure, title: str, description: str, name: str) -> str:
    """A figure as an SVG element that is an image with a text alternative; ids in it begin with ``name``."""
    written = io.BytesIO()
    drawn.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        _made_own(element, name)
    _without_empty_groups(root)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    for at, (kind, text) in enumerate((("title", title), ("desc", description))):
        said = ElementTree.Element(
            f"{{{_SVG}}}{kind}", {"id": f"{name}-{'title' if kind == 'title' else 'description'}"}
        )
        said.text = text
        root.insert(at, said)
    return ElementTree.tostring(root, encoding="unicode")


def _made_own(element: ElementTree.Element, name: str) -> None:
    """Give an element's references the page's names, its colours roles and its text a font that every reader has."""
    if "id" in element.attrib:
        if _COUNTED.match(element.attrib["id"]):
            del element.attrib["id"]
        else:
            element.attrib["id"] = f"{name}-{element.attrib['id']}"
    if _NO_TURN.fullmatch(element.attrib.get("transform", "")):
        del element.attrib["transform"]
    for key, value in element.attrib.items():
        value = re.sub(r"url\(#", f"url(#{name}-", value)
        if key == f"{{{_LINK}}}href":
            value = re.sub(r"^#", f"#{name}-", value)
        if key == "style":
            value = _FAMILY.sub(rf"\1 {_FONT}", palette.with_variables(value))
        elif key in ("fill", "stroke"):
            value = palette.with_variables(value)
        if key in ("d", "x", "y", "points"):
            value = _BOX.sub(r"M\1 \2H\3V\4H\1z", " ".join(_LONG.sub(r"\1", value).split()))
        element.attrib[key] = value


def _without_empty_groups(parent: ElementTree.Element) -> None:
    """Put the children of groups that say nothing in their place: matplotlib makes one for every text."""
    children: list[ElementTree.Element] = []
    for child in parent:
        _without_empty_groups(child)
        children += list(child) if child.tag == f"{{{_SVG}}}g" and not child.attrib else [child]
    parent[:] = children
    if not (parent.text or "").strip():
        parent.text = None
    for child in children:
        child.tail = "\n"


def standing_alone(svg: str) -> str:
    """An SVG as a file of its own, which brings its colours along, and ground: it may be shown on any."""
    root = ElementTree.fromstring(svg)
    left, top, width, height = (float(number) for number in root.attrib["viewBox"].split())
    width, height = width + 2 * _MARGIN, height + 2 * _MARGIN
    root.attrib |= {
        "viewBox": f"{left - _MARGIN:g} {top - _MARGIN:g} {width:g} {height:g}",
        "width": f"{width * _PIXELS:.0f}",
        "height": f"{height * _PIXELS:.0f}",
    }
    style = ElementTree.Element(f"{{{_SVG}}}style")
    style.text = (
        f":root {{ {palette.declarations(dark=False)} background: {palette.GROUND.light}; }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {palette.declarations(dark=True)} "
        f"background: {palette.GROUND.dark}; }} }}"
    )
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
