"""A report as a page: one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from verify.page import palette
from verify.page.charts.kinds import chart
from verify.page.reading import Picture, Report
from verify.page.sections import OUTCOMES, VERDICTS, pictured, sections
from verify.page.svg import standing_alone

#: How much of a page pictures may take, in characters; those of what did not pass come first.
LARGEST_PICTURES = 1_400_000
#: How much of a finding's details a page shows, in characters: the report has all of it.
_DETAILS = 12_000


def page(report: Report) -> str:
    """A report as HTML; the same report gives the same text."""
    environment = Environment(
        loader=PackageLoader("verify.page", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clipped": _clipped, "breakable": _breakable}
    charts = _charts(report)
    return environment.get_template("page.html").render(
        report=report,
        sections=sections(report),
        outcomes=OUTCOMES,
        verdicts=VERDICTS,
        chart_of=lambda picture: charts.get(id(picture)),
        light=Markup(palette.declarations(dark=False)),
        dark=Markup(palette.declarations(dark=True)),
    )


def _breakable(name: str) -> Markup:
    """A name that a narrow page may break after an underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _clipped(text: str) -> str:
    if len(text) <= _DETAILS:
        return text
    return f"{text[:_DETAILS]}\n… {len(text) - _DETAILS} further characters are in the report"


def _charts(report: Report) -> Mapping[int, Markup]:
    """The charts of a report's pictures by the identity of the picture; none for those that find no room."""
    drawn: dict[int, Markup] = {}
    room = LARGEST_PICTURES
    for number, (_, picture) in enumerate(pictured(report)):
        svg = chart(picture, f"picture-{number}") if room > 0 else None
        if svg is not None and len(svg) <= room:
            room -= len(svg)
            drawn[id(picture)] = Markup(svg)
    return drawn


def files_of_pictures(report: Report) -> Mapping[str, str]:
    """A report's pictures as SVG that stands alone, by the name of its file."""
    files: dict[str, str] = {}
    for check, picture in pictured(report):
        svg = chart(picture, "picture")
        if svg is not None:
            files[_file_name(check.name, check.subject, picture, files)] = standing_alone(svg)
    return files


def _file_name(check: str, subject: str, picture: Picture, taken: Container[str]) -> str:
    """What a picture's file is called: by check, subject and kind; with a number where there are several."""
    words = "-".join(filter(None, (check.removeprefix("test_"), subject, picture.kind)))
    stem = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-").lower()[:100]
    names = (f"{stem}{f'-{number}' if number > 1 else ''}.svg" for number in count(1))
    return next(name for name in names if name not in taken)
