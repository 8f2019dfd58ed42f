"""What a result has to show beside its text: pictures, as plain data that a page is drawn from later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The most that a picture's data may take as JSON, in characters: reports are read by people, too.
LARGEST = 40_000


@dataclass(frozen=True)
class Picture:
    """One picture: data for a kind of chart, and in full sentences what is to be seen in it."""

    #: The kind of chart that draws ``data``: docs/page.md lists them.
    kind: str
    title: str
    #: The text alternative, and what is left of the picture where its kind is unknown.
    description: str
    #: JSON, as the kind of chart wants it.
    data: Mapping[str, Any]


#: Gives the pictures of a case, what was observed of it (or the ``RanksFailed`` that was raised instead), the target.
Pictures = Callable[[Any, Any, Any], Sequence[Picture]]


def travels(picture: Picture) -> bool:
    """Whether a picture can be written into a report: small, and plain JSON without what is no number."""
    try:
        return len(json.dumps(picture.data, allow_nan=False)) <= LARGEST
    except (TypeError, ValueError):
        return False
