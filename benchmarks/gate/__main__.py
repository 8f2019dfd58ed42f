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
from dataclasses import asdict
from pathlib import Path

from benchmarks.gate.clock import FILE
from benchmarks.gate.table import Measured, lines, measured

ROOT = Path(__file__).parents[2]


def measure(target: str, only: str | None) -> Measured:
    """Run the gate on a target, once.

    Raises:
        SystemExit: with what the gate wrote, where it did not come to its end.
    """
    command = [sys.executable, "-m", "pytest", "verify", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.gate.clock", "--target", target, *(("--only", only) if only else ())]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clock.json"
        used, began = _used(), time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, FILE: str(file)}, capture_output=True, text=True)
        ended, used = time.monotonic(), _used() - used
        if done.returncode not in (0, 1, 5) or not file.exists():  # passes, violates, has nothing to be checked
            raise SystemExit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}\nthe gate ended with {done.returncode}")
        return measured(began, ended, used, json.loads(file.read_text(encoding="utf-8")))


def _used() -> float:
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])  # user's and system's


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description="Where does the gate's time go?")
    parser.add_argument("--target", default="sam3", help="what is judged, as the gate's own option names it")
    parser.add_argument("--only", metavar="G,...", help="groups or checks; all without it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the seconds as JSON")
    options = parser.parse_args()
    run = measure(options.target, options.only)
    if options.json:
        options.json.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(run)))


if __name__ == "__main__":
    main()
