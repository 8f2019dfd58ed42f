"""The command: python -m benchmarks.gate."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.gate.clock import FILE
from benchmarks.gate.growth import Step, rows
from benchmarks.gate.table import Measured, lines, measured

ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "pytest", "verify", "-q", "-p", "no:cacheprovider")


@contextmanager
def _on_cores(count: int | None) -> Iterator[None]:
    """Let what is started here use so many cores."""
    if count is None:
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _run(*arguments: str, clock: Path | None = None, cores: int | None = None) -> None:
    """Run the gate once, on the first ``cores`` of those that this process may use, or on all.

    ``clock``: the file that its clock writes, where it has one.

    Raises:
        SystemExit: with what the gate wrote, where it did not come to its end.
    """
    environment = os.environ if clock is None else {**os.environ, FILE: str(clock)}
    with _on_cores(cores):
        done = subprocess.run([*_COMMAND, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    told = clock is None or clock.exists()
    if done.returncode not in (0, 1, 5) or not told:  # passes, violates, has nothing to be checked
        raise SystemExit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\nthe gate ended with {done.returncode}")


def measure(target: str, only: str | None) -> Measured:
    """Run the gate on a target, once, and see where its time goes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clock.json"
        used, began = _used(), time.monotonic()
        arguments = ("-p", "benchmarks.gate.clock", "--target", target, *(("--only", only) if only else ()))
        _run("-n", "0", *arguments, clock=file)
        ended, used = time.monotonic(), _used() - used
        return measured(began, ended, used, json.loads(file.read_text(encoding="utf-8")))


def seconds_of(target: str, step: Step) -> float:
    """Run the gate for one step of its growth; gives seconds of the wall."""
    began = time.monotonic()
    _run("--target", target, *step.arguments, cores=step.cores)
    return time.monotonic() - began


def _used() -> float:
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # user's and system's


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description="Where does the gate's time go?")
    parser.add_argument("--target", default="sam3", help="what is judged, as the gate's own option names it")
    parser.add_argument("--only", metavar="G,...", help="groups or checks; all without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds as JSON")
    parser.add_argument("--growth", action="store_true", help="how does it grow with checks, cases, ranks and cores?")
    options = parser.parse_args()
    if options.growth:
        if options.only or options.json:
            parser.error("--growth measures runs of its own: leave out --only and --json")
        if not hasattr(os, "sched_setaffinity"):
            parser.error("--growth gives a run some of the cores, which is done on Linux alone")
        for row in rows(len(os.sched_getaffinity(0)), partial(seconds_of, options.target)):
            print(row, flush=True)
        return
    run = measure(options.target, options.only)
    if options.json:
        options.json.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(run)))


if __name__ == "__main__":
    main()
