"""The groups of checks, in the order in which they are reported, and the modules that hold them."""

from __future__ import annotations

import importlib
from pathlib import Path

from fixtures.ranks.processes.launcher import PRELOAD
from verify.engine import check
from verify.engine.check import Check

#: Each group's room: a folder beside this file.
ROOMS = {
    "schedule": "buffer",
    "parity": "buffer",
    "training": "training",
    "gradients": "gradients",
    "ddp": "ddp",
    "builder": "builder",
    "data": "data",
    "trainer": "trainer",
}
GROUPS = tuple(ROOMS)
#: The groups that have checks on processes: told before their checks are imported, which takes long.
ON_PROCESSES = frozenset({"schedule", "parity", "ddp", "trainer"})
#: What the server of processes imports; the last builds the target's models, which ranks then share.
PRELOADED = (*PRELOAD, "verify.buffer.observation", "reference.recipe.loss", "verify.target.preload")


def registered() -> dict[str, Check]:
    """All checks by name, in the order of their groups: imports every module of checks.

    They import sam3, which may be a checkout's: the target has to be loaded before.
    """
    for room in dict.fromkeys(ROOMS.values()):
        for path in sorted((Path(__file__).parent / room).glob("test_*.py")):
            importlib.import_module(f"verify.{room}.{path.stem}")
    return dict(sorted(check.registered().items(), key=lambda item: GROUPS.index(item[1].group)))


def names(only: str) -> list[str]:
    """What ``--only GROUP_OR_CHECK[,…]`` names."""
    return [name.strip() for name in only.split(",") if name.strip()]


def on_processes(only: str | None) -> bool:
    """Whether ``--only`` names a group with checks on processes; what single checks run on is not known yet."""
    return only is None or not ON_PROCESSES.isdisjoint(names(only))


def select(only: str | None, option: str = "--only") -> dict[str, Check]:
    """The checks that ``--only GROUP_OR_CHECK[,…]``, or another ``option``, names; all of them for None.

    Raises:
        ValueError: naming what is neither a group nor a check.
    """
    checks = registered()
    if only is None:
        return checks
    named = names(only)
    for name in named:
        if name not in checks and name not in GROUPS:
            raise ValueError(
                f"{option} {name}: neither a group ({', '.join(GROUPS)}) nor a check; --list-checks names them"
            )
    if not named:
        raise ValueError(f"{option} names nothing")
    return {name: found for name, found in checks.items() if name in named or found.group in named}
