"""What a run's time went into, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gate.clock import ENDING, PARTS, STAGES, STARTING


@dataclass(frozen=True)
class Measured:
    """One run of the gate: seconds of the wall, from before its process was started until it had ended."""

    wall: float
    #: Seconds of the processor, user's and system's, of all its processes.
    processor: float
    #: Of collections of garbage, which are in the others.
    garbage: float
    stages: dict[str, float]
    groups: dict[str, dict[str, float]]
    #: Each check on each launcher, the slowest first.
    checks: list[tuple[str, float]]


def measured(began: float, ended: float, processor: float, counted: Mapping[str, Any]) -> Measured:
    """A run that was started and had ended at times of the monotonic clock, and what its plugin has written."""
    stages = dict.fromkeys(STAGES, 0.0)
    groups: dict[str, dict[str, float]] = {}
    for group, name, seconds in counted["seconds"]:
        (groups.setdefault(group, dict.fromkeys(PARTS, 0.0)) if group else stages)[name] += seconds
    stages[STARTING] += counted["began"] - began
    stages[ENDING] += ended - counted["ended"]
    checks = sorted(counted["checks"], key=lambda check: -check[1])
    return Measured(ended - began, processor, counted["garbage"], stages, groups, checks)


def lines(run: Measured) -> Iterator[str]:
    """The table of stages and groups; then that of the parts of each group, and the slowest checks."""
    yield "| stage | seconds | share |\n|---|---:|---:|"
    for name, seconds in [*run.stages.items(), *((group, sum(of.values())) for group, of in run.groups.items())]:
        yield f"| {name} | {seconds:.2f} | {seconds / run.wall:.0%} |"
    yield f"| all | {run.wall:.2f} | 100% |"
    yield f"\nProcessor: {run.processor:.2f} s. Collections of garbage, in the above: {run.garbage:.2f} s.\n"
    yield f"| group | {' | '.join(PARTS)} |\n|---|{'---:|' * len(PARTS)}"
    for group, of in run.groups.items():
        yield f"| {group} | {' | '.join(f'{of[part]:.2f}' for part in PARTS)} |"
    yield "\n| the 10 slowest checks | seconds |\n|---|---:|"
    for name, seconds in run.checks[:10]:
        yield f"| `{name}` | {seconds:.2f} |"
