"""What came of all bugs, by check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.catches.judging import Caught
from verify.engine.check import Check


@dataclass(frozen=True)
class Row:
    """What a check catches."""

    check: str
    group: str
    #: How many bugs it was tried on.
    tried: int
    caught: tuple[str, ...]
    #: Bugs that no other check catches.
    alone: tuple[str, ...]


def rows(every: Sequence[Caught], checks: Sequence[Check]) -> list[Row]:
    """A row for each check that was tried on a bug, in the order of ``checks``."""
    tried = {check.name: [one for one in every if check.name in one.outcomes] for check in checks}
    return [
        Row(
            check.name,
            check.group,
            len(tried[check.name]),
            tuple(one.bug for one in tried[check.name] if check.name in one.by),
            tuple(one.bug for one in tried[check.name] if one.by == (check.name,)),
        )
        for check in checks
        if tried[check.name]
    ]


def uncaught(every: Sequence[Caught]) -> list[str]:
    """Bugs that no check catches."""
    return [one.bug for one in every if not one.by]


def missed_by_its_own(every: Sequence[Caught]) -> list[str]:
    """Bugs that other checks catch, and the one that they are for does not."""
    return [f"{one.bug} ({one.check})" for one in every if one.by and one.check not in one.by]


def lines(every: Sequence[Caught], checks: Sequence[Check]) -> Iterator[str]:
    """The table as Markdown, by group; then what is to be questioned."""
    made = rows(every, checks)
    yield "| group | bugs tried | caught | by one check alone | checks | that catch one alone |"
    yield "|---|---|---|---|---|---|"
    for group in dict.fromkeys(row.group for row in made):
        of_group = [row for row in made if row.group == group]
        tried = {one.bug for one in every for row in of_group if row.check in one.outcomes}
        caught = {bug for row in of_group for bug in row.caught}
        alone = sum(len(row.alone) for row in of_group)
        useful = sum(bool(row.alone) for row in of_group)
        yield f"| {group} | {len(tried)} | {len(caught)} | {alone} | {len(of_group)} | {useful} |"
    yield ""
    yield "| check | group | catches | it alone |"
    yield "|---|---|---|---|"
    for row in made:
        names = "".join(f" `{bug.rpartition(':')[2]}`" for bug in row.alone)
        yield f"| `{row.check}` | {row.group} | {len(row.caught)} of {row.tried} | {len(row.alone)}{names} |"
    for title, names in (
        ("Checks that catch nothing alone", [row.check for row in made if not row.alone]),
        ("Bugs that no check catches", uncaught(every)),
        ("Bugs that are caught, and not by the check that they are for", missed_by_its_own(every)),
    ):
        yield ""
        yield f"{title}: {', '.join(names) or 'none'}."
