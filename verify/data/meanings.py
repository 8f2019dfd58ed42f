"""Which category of the videos a text stands for: the one that it names, or the one whose objects it always expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from fixtures.synthetic.videos import CATEGORIES
from verify.configuration.videos import videos_of
from verify.data.batch import Arrived, Query
from verify.data.case import Loading
from verify.data.placing import objects_at
from verify.engine.finding import NotCovered

#: Numbers of categories by text. A text that is not among them names no category, and no box that is expected for it
#: lies on an object.
Meanings = Mapping[str, int]


def queries_of(clips: Iterable[Arrived]) -> Iterator[Query]:
    """All queries of clips whose image is known."""
    return (query for clip in clips for stage in clip.stages for query in stage if query.shown is not None)


def meanings_of(clips: Iterable[Arrived], case: Loading) -> Meanings:
    """Tell which category each text of a case's clips stands for.

    A loader may ask in words of its own (a phrase, a synonym, a prompt that the configuration gives): a text that names
    no category, or several, stands for the one whose objects it expects. What expects nothing anywhere is told only
    where one such text and one category are left over.

    Raises:
        NotCovered: where a text expects objects of several categories: it may stand for all of them, or be wrong.
    """
    queries = list(queries_of(clips))
    told = {query.said: query.named for query in queries if query.named is not None}
    unnamed = {query.said for query in queries} - told.keys()
    if not unnamed:
        return told
    tracks = videos_of(case.spec()).tracks
    expects: dict[str, set[int]] = {text: set() for text in unnamed}
    silent = set(unnamed)
    for query in queries:
        if query.said in unnamed and query.boxes:
            assert query.shown is not None
            silent.discard(query.said)
            for box in query.boxes:
                expects[query.said] |= {
                    tracks[query.shown.video][number].category for number in objects_at(box, query.shown)
                }
    for text, categories in sorted(expects.items()):
        if len(categories) > 1:
            names = " and ".join(CATEGORIES[number] for number in sorted(categories))
            raise NotCovered(f"it cannot be told which category {text!r} stands for: it expects objects of {names}")
        if categories:
            told[text] = categories.pop()
    left = {track.category for video in tracks for track in video} - set(told.values())
    if len(silent) == len(left) == 1:
        told[silent.pop()] = left.pop()
    return told
