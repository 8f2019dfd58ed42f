"""The command: python -m benchmarks.false_alarms."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.false_alarms.alarms import How, Judged, judge, put_together
from benchmarks.false_alarms.load import loaded
from benchmarks.false_alarms.runs import running
from fixtures.forks.right import Right, right_targets
from verify.groups import GROUPS, select


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.false_alarms", description="How often does the gate accuse what is right?"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs for each target")
    parser.add_argument("--first-seed", type=int, default=1, metavar="S", help="the seed of the first")
    parser.add_argument("--target", default="", metavar="NAME,...", help="the targets whose names hold one of these")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these groups and checks alone")
    parser.add_argument("--profile", default="quick", help="how many cases a run draws")
    parser.add_argument("--launcher", default="", help="the gate's --launcher")
    parser.add_argument("--forked", type=int, default=0, metavar="N", help="so many runs at a time, in forks")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="xdist's workers in each run")
    parser.add_argument("--load", action="store_true", help="keep every core busy meanwhile")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write alarms here, a line of JSON each")
    return parser.parse_args()


def _targets(options: argparse.Namespace) -> Iterator[tuple[Right, How]]:
    checks = select(options.only) if options.only else {}
    groups = {name: check.group for name, check in checks.items()} or {group: group for group in GROUPS}
    for right in right_targets():
        only = tuple(name for name, group in groups.items() if group in right.groups)
        if only and any(part in right.name for part in options.target.split(",")):
            yield right, How(only, options.profile, options.launcher, options.workers)


def _tell(total: Judged, keep: Path | None) -> None:
    row = f"{total.target:<60}  {total.runs:>4}  {total.checks:>6}  {total.cases:>7}  {len(total.alarms):>6}"
    print(row, flush=True)
    for alarm in total.alarms:
        print(f"  seed {alarm.seed}: {alarm.check} {alarm.outcome}: {alarm.message}\n    {alarm.replay}", flush=True)
        if keep:
            with keep.open("a") as file:
                file.write(json.dumps(asdict(alarm)) + "\n")


def main() -> int:
    options = _options()
    try:
        targets = list(_targets(options))
    except ValueError as error:
        raise SystemExit(str(error)) from None
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    totals: list[Judged] = []
    print(f"{'target':<60}  runs  checks    cases  alarms")
    with (
        loaded(options.load),
        running(options.forked) as run,
        ThreadPoolExecutor(max(1, options.forked)) as pool,
    ):
        under_way = [[pool.submit(judge, run, right, seed, how) for seed in seeds] for right, how in targets]
        for runs in under_way:
            totals.append(put_together([each.result() for each in runs]))
            _tell(totals[-1], options.keep)
    alarms = sum(len(total.alarms) for total in totals)
    print(f"{alarms} false alarms in {sum(total.cases for total in totals)} cases of {len(totals)} targets")
    return 1 if alarms or not totals else 0


if __name__ == "__main__":
    sys.exit(main())
