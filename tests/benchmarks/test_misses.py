"""How often a bug is missed is counted by seed: what no check could see is missed each time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.catches.judging import BASES
from benchmarks.forked import in_forks
from benchmarks.misses import Judged, judge_alone, lines
from fixtures.forks.wrong import wrong_targets

EVERY = (
    Judged("buffer:One", "test_coverage", 4, ()),
    Judged("buffer:Two", "test_coverage", 4, (3,)),
    Judged("batched:Three", "test_share_of_work", 4, (0, 2)),
)


def test_bugs_that_were_missed_are_listed_with_their_seeds_and_counted() -> None:
    said = list(lines(EVERY))
    assert said[2:] == [
        "| `batched:Three` | `test_share_of_work` | 2 of 4 | 0, 2 |",
        "| `buffer:Two` | `test_coverage` | 1 of 4 | 3 |",
        "",
        "3 bugs, 12 times: missed 3 times, 25.00%; 2 bugs were missed at least once.",
    ]
    assert list(lines(EVERY[:1])) == [
        "",
        "1 bugs, 4 times: missed 0 times, 0.00%; 0 bugs were missed at least once.",
    ]


def test_a_bug_is_judged_once_a_seed_and_what_is_none_is_missed_each_time() -> None:
    (bug,) = (bug for bug in wrong_targets() if bug.name == "buffer:NoPrefetch")
    none = replace(bug, name="buffer:none", options={"spec": BASES["buffer"]})
    ended = {ended.asked.name: ended.given for ended in in_forks(partial(judge_alone, 2), [bug, none], 2, 200)}
    assert ended == {
        "buffer:NoPrefetch": Judged("buffer:NoPrefetch", bug.check, 2, ()),
        "buffer:none": Judged("buffer:none", bug.check, 2, (0, 1)),
    }
