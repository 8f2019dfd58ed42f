"""Pictures of scans: nothing differs where a buffer keeps its promises; where it does not, the first place is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fixtures.forks import batched, buffer
from fixtures.ranks import Ranks, RanksFailed, Threads
from verify.buffer.observation import Seen, observe_scripted
from verify.buffer.pictures import (
    collectives_pictures,
    differing_scan_pictures,
    first_difference,
    held_pictures,
    residency_picture,
    scan_pictures,
    schedule_picture,
    shows,
)
from verify.engine.picture import travels
from verify.page.charts.kinds import chart
from verify.page.reading import Picture
from verify.target.naming import Target
from verify.video.scan import Scan, Visit

#: Scans of the shapes that matter: a tail, backwards, from within, one rank, a clip shorter than a chunk.
PLAIN = {"gather": False, "asynchronous": False}
CHUNKED = [
    Scan(11, 4, **PLAIN),
    Scan(7, 3, start=6, reverse=True, **PLAIN),
    Scan(9, 2, start=3, **PLAIN),
    Scan(4, 1, **PLAIN),
    Scan(2, 5, **PLAIN),
]
BATCHED = [
    Scan(10, 2, batch=4, **PLAIN),
    Scan(7, 1, batch=3, start=6, reverse=True, **PLAIN),
    Scan(5, 2, batch=8, **PLAIN),
]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    made = Threads()
    yield made
    made.close()


def seen_of(ranks: Ranks, fork: str, case: Scan) -> Seen:
    return observe_scripted(ranks, Target(f"fixtures.forks.{fork}"), case)


@pytest.mark.parametrize("case", CHUNKED, ids=str)
@pytest.mark.parametrize("name", buffer.conforming.VARIANTS)
def test_a_chunked_buffer_that_is_right_differs_nowhere(name: str, case: Scan, ranks: Ranks) -> None:
    seen = seen_of(ranks, f"buffer:{name}", case)
    assert first_difference(seen) is None
    assert differing_scan_pictures(case, seen, None) == ()
    picture = schedule_picture(seen)
    assert picture.data["difference"] is None
    assert "What was seen is what is promised" in picture.description


@pytest.mark.parametrize("case", BATCHED, ids=str)
@pytest.mark.parametrize("name", batched.conforming.VARIANTS)
def test_a_batched_buffer_that_is_right_differs_nowhere(name: str, case: Scan, ranks: Ranks) -> None:
    assert first_difference(seen_of(ranks, f"batched:{name}", case)) is None


@pytest.mark.parametrize(
    ("fork", "what", "case"),
    [
        ("buffer:ReversedGather", "answered", Scan(8, 2, **PLAIN)),
        ("buffer:EveryoneDetectsAll", "detected", Scan(8, 2, **PLAIN)),
        ("buffer:RebuildsAtEveryCall", "detected", Scan(8, 2, **PLAIN)),
        ("buffer:NeverEvicts", "held", Scan(8, 2, **PLAIN)),
        ("buffer:EvictsLate", "held", Scan(8, 2, **PLAIN)),
        ("buffer:NoPrefetch", "held", Scan(8, 2, **PLAIN)),
        ("buffer:PrefetchesTwoChunks", "held", Scan(12, 2, **PLAIN)),
        ("batched:WholeClipAtOnce", "held", Scan(9, 1, batch=3, **PLAIN)),
        ("batched:DetectsAtEveryCall", "detected", Scan(9, 1, batch=3, **PLAIN)),
        ("batched:EvictsLate", "held", Scan(9, 1, batch=3, **PLAIN)),
    ],
)
def test_the_first_difference_of_a_wrong_buffer_is_found_and_marked(
    fork: str, what: str, case: Scan, ranks: Ranks
) -> None:
    seen = seen_of(ranks, fork, case)
    difference = first_difference(seen)
    assert difference is not None
    assert what in {difference.what, *(found.what for found in _later(seen))}
    picture = schedule_picture(seen)
    assert f"The first difference is in call {difference.call} on rank {difference.rank}" in picture.description
    assert difference.call in range(picture.data["first_call"], picture.data["first_call"] + len(picture.data["calls"]))
    svg = _drawn(picture)
    assert svg.count("first-difference") == 1


def _later(seen: Seen) -> list[Any]:
    from verify.buffer import pictures

    compared = (pictures._first_answered, pictures._first_detected, pictures._first_held)
    return [found for rank in seen.ranks for compare in compared if (found := compare(seen.case, rank)) is not None]


def _drawn(picture: Any) -> str:
    assert travels(picture)
    svg = chart(Picture(picture.kind, picture.title, picture.description, picture.data), "p")
    assert svg is not None
    return svg


def test_a_long_scan_is_cut_around_the_first_difference_and_says_so(ranks: Ranks) -> None:
    seen = seen_of(ranks, "buffer:EvictsForwardOnly", Scan(40, 8, start=39, reverse=True, **PLAIN))
    picture = schedule_picture(seen)
    assert len(picture.data["calls"]) == 12
    assert len(picture.data["ranks"]) == 4
    assert "12 of 40 calls are shown" in picture.description
    assert "4 of 8 ranks are shown" in picture.description
    assert picture.data["first_call"] > 0
    _drawn(picture)


def test_what_is_held_over_a_long_scan_is_beside_its_promise(ranks: Ranks) -> None:
    good = residency_picture(seen_of(ranks, "buffer:Synchronous", Scan(40, 4, **PLAIN)))
    assert good is not None
    promised, seen = (line["values"] for line in good.data["lines"])
    assert promised == seen
    assert max(seen) == 8
    assert good.data["mark"] is None
    bad = residency_picture(seen_of(ranks, "buffer:NeverEvicts", Scan(40, 4, **PLAIN)))
    assert bad is not None
    assert bad.data["lines"][1]["values"][-1] == 40
    assert bad.data["mark"]["at"] == 4
    assert "holds 40 frames at most" in bad.description
    assert _drawn(bad).count("first-difference") == 1


def test_visits_out_of_order_are_promised_their_own_frames_alone(ranks: Ranks) -> None:
    case = Scan(6, 2, visits=(Visit(5), Visit(0), Visit(3)), **PLAIN)
    right = schedule_picture(seen_of(ranks, "buffer:Synchronous", case))
    assert right.data["difference"] is None
    assert right.data["held"] is None
    wrong = schedule_picture(seen_of(ranks, "buffer:ReversedGather", case))
    assert wrong.data["difference"]["what"] == "answered"
    _drawn(wrong)


def test_collectives_are_told_by_rank_with_the_first_that_is_not_the_same(ranks: Ranks) -> None:
    case = Scan(4, 2, **PLAIN)
    (good,) = collectives_pictures(case, seen_of(ranks, "buffer:Synchronous", case), None)
    assert good.data["mismatch"] is None
    (bad,) = collectives_pictures(case, seen_of(ranks, "buffer:ExtraAtTheEnd", case), None)
    assert bad.data["mismatch"] is not None
    assert f"Number {bad.data['mismatch']} is the first that is not the same" in bad.description
    assert _drawn(bad).count("first-difference") == 1


def test_ranks_that_failed_have_no_picture() -> None:
    failure = RanksFailed("rank 0 raised")
    for pictures in (scan_pictures, differing_scan_pictures, held_pictures, collectives_pictures):
        assert pictures(CHUNKED[0], failure, None) == ()


def test_the_scan_that_shows_most_is_short_and_has_some_ranks() -> None:
    assert shows(CHUNKED[0]) > max(shows(case) for case in CHUNKED[1:])
    assert shows(CHUNKED[0]) > shows(replace(CHUNKED[0], world_size=8))
