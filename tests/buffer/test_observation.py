"""Observations that checks share are made once."""

from __future__ import annotations

from fixtures.ranks import Threads
from verify.buffer.observation import observe_scripted
from verify.engine.profile import PROFILES
from verify.target.naming import Target
from verify.video.scan import Scan


def test_what_one_check_has_seen_another_sees_though_others_were_made_between() -> None:
    ranks, between = Threads(), 5 * PROFILES["quick"].examples
    cases = [Scan(frames=1, world_size=1, gather=False, seed=seed) for seed in range(between)]
    try:
        first = [observe_scripted(ranks, Target("sam3"), case) for case in cases]
        again = [observe_scripted(ranks, Target("sam3"), case) for case in cases]
    finally:
        ranks.close()
    assert all(one is other for one, other in zip(first, again, strict=True))
