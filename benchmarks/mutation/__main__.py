"""The command: python -m benchmarks.mutation BODY."""

from __future__ import annotations

import argparse
import random
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.forked import in_forks, made_ready
from benchmarks.mutation import report
from benchmarks.mutation.bodies import BODIES, Body
from benchmarks.mutation.judging import ENDED, NO_TENSOR, TIMED_OUT, Judged, Timed, baseline, checks_of, judge
from benchmarks.mutation.mutants import Mutant, functions_in, mutants
from benchmarks.mutation.operators import operators
from benchmarks.mutation.score import SEEN
from benchmarks.mutation.source import text_of
from verify.groups import registered

#: How long a mutant may take that every check passes: minutes, where the machine is busy.
SECONDS = 300.0
#: Of the order in which mutants are judged: what is there when a measurement is ended is a sample.
SEED = 0


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutation",
        description="How many small edits of a code under verification does the gate see?",
    )
    parser.add_argument("body", metavar="BODY", choices=sorted(BODIES), help=", ".join(BODIES))
    parser.add_argument("--seconds", type=_positive, default=SECONDS, help="for one mutant (default: %(default).0f)")
    parser.add_argument("--workers", type=_count, default=2, help="processes at once (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="list the mutants, and end")
    parser.add_argument("--only", metavar="MUTANT", help="judge the mutants whose names begin so")
    parser.add_argument("--sample", type=_count, metavar="N", help="judge so many, drawn at random")
    parser.add_argument("--seed", type=int, default=SEED, help="of what is drawn (default: %(default)s)")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="judge those again that lived in what --json wrote; the dead stay so"
    )
    parser.add_argument("--every-check", action="store_true", help="judge each by every check, not until one fails")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    given = parser.parse_args()
    if given.again and (given.only or given.sample):
        parser.error("--again judges what lived then: leave out --only and --sample")
    if given.json is not None and not given.json.parent.is_dir():
        parser.error(f"--json {given.json}: there is no folder {given.json.parent}")
    return given


def mutants_of(body: Body) -> list[Mutant]:
    """All mutants of a body, in the order of its modules and functions."""
    made: list[Mutant] = []
    edits = [named for named in operators() if body.trained or named.name != "detached_tensor"]
    for region in body.regions:
        text = text_of(region.module)
        for function in region.functions or functions_in(text):
            made += mutants(region.module, text, function, edits)
    return made


def _judged(body: Body, timed: tuple[Timed, ...], every_check: bool, mutant: Mutant) -> Judged:
    return judge(body, mutant, timed, every_check)


def _baseline(body: Body, workers: int, seconds: float) -> tuple[Timed, ...]:
    """How each check ends on the unedited body, each in a process of its own."""
    timed = []
    for ended in in_forks(partial(baseline, body), sorted(checks_of(body.groups)), workers, seconds):
        if ended.given is None:
            raise SystemExit(f"the unedited body cannot be judged by {ended.asked}: run the gate on it first")
        timed.append(ended.given)
    return tuple(sorted(timed, key=lambda one: one.check))


def main() -> None:
    given = _arguments()
    made_ready()
    body = BODIES[given.body]
    found = mutants_of(body)
    if given.only:
        found = [mutant for mutant in found if mutant.name.startswith(given.only)]
        if not found:
            raise SystemExit(f"--only {given.only}: no mutant of {given.body} is called so; --list names them")
    if given.list:
        for mutant in found:
            print(mutant.name, *(f"    {line}" for line in mutant.diff.splitlines()), sep="\n")
        print(f"{len(found)} mutants")
        return
    try:
        earlier = report.read(given.again, given.body, found) if given.again else None
    except report.NoMeasurement as error:
        raise SystemExit(f"--again {error}") from None
    registered()  # imports what the forks need
    started, commit = time.monotonic(), report.commit()
    timed = _baseline(body, given.workers, given.seconds)
    pairs: list[tuple[Mutant, Judged]] = []
    if earlier is not None:
        seed = earlier.seed
        pairs = [pair for pair in earlier.judged if pair[1].outcome in (*SEEN, NO_TENSOR)]
        to_judge = [mutant for mutant, judged in earlier.judged if judged.outcome not in (*SEEN, NO_TENSOR)]
    else:
        to_judge = random.Random(given.seed).sample(found, min(given.sample or len(found), len(found)))
        seed = given.seed if len(to_judge) < len(found) else None

    def measured() -> report.Measurement:
        seconds = time.monotonic() - started
        return report.Measurement(given.body, commit, len(found), seed, timed, tuple(pairs), given.every_check, seconds)

    total = len(pairs) + len(to_judge)
    try:
        for ended in in_forks(partial(_judged, body, timed, given.every_check), to_judge, given.workers, given.seconds):
            judged = ended.given or Judged(TIMED_OUT if ended.timed_out else ENDED)
            pairs.append((ended.asked, judged))
            print(f"{len(pairs)}/{total}  {judged.outcome:<16} {ended.asked.name}", file=sys.stderr, flush=True)
            if given.json:
                report.write(measured(), given.json)
    except KeyboardInterrupt:
        print("interrupted: what has been judged is a sample", file=sys.stderr)
        seed = given.seed if seed is None else seed
        if given.json:
            report.write(measured(), given.json)
    print("\n".join(report.lines(measured())))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted before any mutant was judged") from None
