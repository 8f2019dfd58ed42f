"""How the gate's time grows: with checks, with cases, with ranks that are processes, with cores and workers on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ONE = ("--only", "test_coverage")
_ON_THREADS = (*_ONE, "--launcher", "threads")
_ON_PROCESSES = (*_ONE, "--launcher", "processes")


@dataclass(frozen=True)
class Step:
    """A run of the gate that has more of one thing than the step before it."""

    of: str
    amount: str
    arguments: tuple[str, ...]
    #: How many of the machine's cores it may use; None: all.
    cores: int | None = None


def steps(cores: int) -> tuple[Step, ...]:
    """The runs to measure on a machine with so many ``cores``."""
    counts = [count for count in (1, 2, 4, 8, 16) if count <= cores]
    return (
        Step("checks", "test_coverage", _ONE),
        Step("checks", "schedule", ("--only", "schedule")),
        Step("checks", "schedule and parity", ("--only", "schedule,parity")),
        Step("cases", "25 of a check on threads", (*_ON_THREADS, "--profile", "quick")),
        Step("cases", "200", (*_ON_THREADS, "--profile", "full")),
        Step("cases", "1000", (*_ON_THREADS, "--profile", "nightly", "--seed", "0")),
        *(Step("ranks", f"{size} as processes", (*_ON_PROCESSES, "--world-sizes", str(size))) for size in (1, 2, 4, 8)),
        *(Step("cores", f"{count}, in one process", ("--only", "schedule,parity"), count) for count in counts),
        *(
            Step("workers", f"{count}, on all cores", ("--only", "schedule,parity", "-n", str(count)))
            for count in counts
        ),
    )


def rows(cores: int, seconds: Callable[[Step], float]) -> Iterator[str]:
    """A table in Markdown, line by line as ``seconds`` measures the steps."""
    yield "| more | of them | seconds |\n|---|---|---:|"
    for step in steps(cores):
        yield f"| {step.of} | {step.amount} | {seconds(step):.1f} |"
