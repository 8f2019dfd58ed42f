"""How often a seeded bug is missed: every bug judged by the check that it is for, with other cases each time.

    python -m benchmarks.misses [--bugs NAME,...] [--seeds N] [--workers N] [--processes]

Bugs are those of ``fixtures.forks.wrong``; a check draws as many cases as in the gate's profile *quick*. Bugs whose
check needs processes are left out without ``--processes``; with it these alone are judged, one after another. Prints
Markdown: the bugs that were missed, with their seeds, and how many of all bugs and seeds that is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.catches.judging import bugs_called, gate_for, launcher_for
from benchmarks.forked import in_forks, made_ready
from fixtures.forks.wrong import Wrong
from verify.engine.check import THREADS
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES
from verify.engine.result import FAILURES
from verify.groups import PRELOADED, registered

#: The longest that a bug may take, for each seed.
SECONDS = 300.0


@dataclass(frozen=True)
class Judged:
    """A bug, and the seeds with which its check does not fail on it."""

    bug: str
    check: str
    seeds: int
    missed: tuple[int, ...]


def judge(launchers: Launchers, seeds: int, bug: Wrong) -> Judged:
    """Judge a bug by its check with each seed below ``seeds``."""
    check = registered()[bug.check]
    profile = replace(PROFILES["quick"], shrink_seconds=0)
    missed = []
    for seed in range(seeds):
        with gate_for(bug, launchers, profile, seed) as gate:
            alone = replace(gate, bases={})  # of what blocks a check, its own cases say nothing
            if alone.judge(check, launcher_for(check)).outcome not in FAILURES:
                missed.append(seed)
    return Judged(bug.name, bug.check, seeds, tuple(missed))


def judge_alone(seeds: int, bug: Wrong) -> Judged:
    """Judge a bug in a process that judges nothing else."""
    return judge(Launchers(), seeds, bug)


def lines(every: Sequence[Judged]) -> Iterator[str]:
    """The bugs that were missed, those missed most often first, and how much that is."""
    missed = sorted((one for one in every if one.missed), key=lambda one: -len(one.missed))
    if missed:
        yield "| bug | check | missed | seeds |"
        yield "|---|---|---|---|"
    for one in missed:
        yield f"| `{one.bug}` | `{one.check}` | {len(one.missed)} of {one.seeds} | {', '.join(map(str, one.missed))} |"
    times, all_times = sum(len(one.missed) for one in every), sum(one.seeds for one in every)
    yield ""
    yield (
        f"{len(every)} bugs, {all_times} times: missed {times} times, {times / all_times:.2%}; "
        f"{len(missed)} bugs were missed at least once."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.misses", description="How often is a seeded bug missed by its check?"
    )
    parser.add_argument("--bugs", default="", metavar="NAME,...", help="the bugs whose names hold one of these")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="times that a bug is judged")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="bugs judged at once")
    parser.add_argument("--processes", action="store_true", help="the bugs whose check needs processes")
    return parser.parse_args()


def main() -> int:
    options = _options()
    wanted = [
        bug
        for bug in bugs_called(options.bugs)
        if (launcher_for(registered()[bug.check]) != THREADS) == options.processes
    ]
    if not wanted or options.seeds < 1:
        raise SystemExit(
            f"--bugs {options.bugs} --seeds {options.seeds}: nothing to judge; fixtures/forks/wrong.py names the bugs, "
            "and --seeds is at least 1"
        )
    made_ready()
    every: list[Judged] = []

    def tell(judged: Judged) -> None:
        every.append(judged)
        print(f"{len(every)}/{len(wanted)}  {judged.bug}: missed {len(judged.missed)}", file=sys.stderr, flush=True)

    if options.processes:
        launchers = Launchers(preload=PRELOADED)
        try:
            for bug in wanted:
                tell(judge(launchers, options.seeds, bug))
        finally:
            launchers.close()
    else:
        function = partial(judge_alone, options.seeds)
        for ended in in_forks(function, wanted, options.workers, SECONDS * options.seeds):
            bug = ended.asked
            tell(ended.given or Judged(bug.name, bug.check, options.seeds, tuple(range(options.seeds))))
    print("\n".join(lines(every)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
