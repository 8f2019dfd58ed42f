"""The command: python -m benchmarks.catches."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.catches.judging import Caught, apart, base_of, bugs_called, judge, judge_alone, needs_processes
from benchmarks.catches.table import lines, uncaught
from benchmarks.forked import in_forks, made_ready
from verify.engine.launchers import Launchers
from verify.groups import PRELOADED, registered

#: The longest that a bug may take.
SECONDS = 900.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.catches", description="Which check catches which seeded bug?"
    )
    parser.add_argument("--bugs", default="", metavar="NAME,...", help="the bugs whose names hold one of these")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="bugs judged at once")
    parser.add_argument("--examples", type=int, default=25, metavar="N", help="cases that a check draws")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome as JSON")
    return parser.parse_args()


def main() -> int:
    options = _options()
    wanted = bugs_called(options.bugs)
    if not wanted:
        raise SystemExit(f"--bugs {options.bugs}: no seeded bug is called so: fixtures/forks/wrong.py names them")
    made_ready()
    registered()  # imports what the forks need
    every: list[Caught] = []

    def tell(caught: Caught) -> None:
        every.append(caught)
        print(
            f"{len(every)}/{len(wanted)}  {caught.bug}: {', '.join(caught.by) or 'none'}", file=sys.stderr, flush=True
        )
        if options.json:
            options.json.write_text(json.dumps([asdict(one) for one in every], indent=1))

    alone = [bug for bug in wanted if not needs_processes(bug)]
    made_of = {base.name: base for bug in alone if (base := base_of(bug))}
    in_fork = partial(judge_alone, options.examples)
    bases = {ended.asked.name: ended.given for ended in in_forks(in_fork, made_of.values(), options.workers, SECONDS)}
    for ended in in_forks(in_fork, alone, options.workers, SECONDS):
        caught = ended.given or Caught(ended.asked.name, ended.asked.check, {}, SECONDS)
        under = base_of(ended.asked)
        base = bases.get(under.name) if under else None
        tell(apart(caught, base) if base else caught)
    launchers = Launchers(preload=PRELOADED)
    try:
        for bug in wanted:
            if needs_processes(bug):
                tell(judge(launchers, options.examples, bug))
    finally:
        launchers.close()
    print("\n".join(lines(every, list(registered().values()))))
    return 1 if uncaught(every) else 0


if __name__ == "__main__":
    sys.exit(main())
