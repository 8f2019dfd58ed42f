"""What a result has to show beside its text: pictures, as plain data that a page is drawn from later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The most that a picture's data may take as JSON, in characters: reports are read by people, too.
LARGEST = 40_000
#: The most entries of a sequence that a picture shows, and how many of them before the first difference.
SEQUENCE = 14
_BEFORE = 4


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


def window(count: int, at: int | None, most: int, before: int = _BEFORE) -> tuple[int, int]:
    """Which of ``count`` things are shown, from the first up to the last: ``most`` of them, with ``at`` among them."""
    begin = 0 if at is None else min(max(0, at - before), max(0, count - most))
    return begin, min(count, begin + most)


def cut(shown: int, count: int, what: str) -> str:
    """Say that not everything is shown, as what follows a sentence; "" where everything is."""
    return f" {shown} of {count} {what} are shown." if shown < count else ""


def sequences(issued: Sequence[Sequence[str]], during: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Data for a chart of the kind ``sequences``: what each rank issued, in order, and while it did what.

    ``mismatch`` in it is the number of the first that is not the same on all ranks, None where all are.
    """
    longest = max(map(len, issued), default=0)
    at = next(
        (i for i in range(longest) if len({of_rank[i] if i < len(of_rank) else None for of_rank in issued}) > 1), None
    )
    begin, end = window(longest, at, SEQUENCE)
    return {
        "first": begin,
        "of": longest,
        "ranks": [
            {"rank": rank, "issued": list(of_rank[begin:end]), "during": list(when[begin:end]), "of": len(of_rank)}
            for rank, (of_rank, when) in enumerate(zip(issued, during, strict=True))
        ],
        "mismatch": at,
    }


def mismatch_in_words(data: Mapping[str, Any]) -> str:
    """Say of ``sequences`` where ranks differ first, and what each issues there: a chart has no room for all of it."""
    at = data["mismatch"]
    if at is None:
        return "All ranks issue the same, in the same order."
    place = at - data["first"]
    issued = [rank["issued"][place] if place < len(rank["issued"]) else "nothing more" for rank in data["ranks"]]
    told = "; ".join(f"rank {rank['rank']} {words}" for rank, words in zip(data["ranks"], issued, strict=True))
    return f"Number {at} is the first that is not the same on all ranks: {told}."
