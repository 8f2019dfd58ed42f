"""Checks and their registry: one function, one property, one public name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import strategies as st

from fixtures.ranks import Ranks
from verify.target import Target

#: Groups in the order in which they are reported.
GROUPS = ("schedule", "parity", "training", "ddp", "builder", "data", "trainer")
REQUIREMENT = "requirement"
HAZARD = "hazard"
#: Carriers of ranks. ``processes`` are gloo or NCCL processes, or the ranks that torchrun started.
THREADS = "threads"
PROCESSES = "processes"


class Case(Protocol):
    """What a check is tried on: frozen, hashable, and written as JSON so that it can be run again."""

    @property
    def world_size(self) -> int: ...

    def as_json(self) -> dict[str, Any]: ...


#: Draws cases for a target, given a strategy for the world sizes at hand.
Cases = Callable[[Target, st.SearchStrategy[int]], st.SearchStrategy[Any]]
#: Runs a case of a target on ranks and gives what they saw.
Observation = Callable[[Ranks, Target, Any], Any]
#: Compares one case with the reference, through a function that observes a case; raises Violation.
#: Gives False where the case had nothing to compare.
Body = Callable[[Any, Callable[[Any], Any], Target], bool | None]
#: Says why a target cannot be checked, or gives None.
Lacks = Callable[[Target], str | None]


@dataclass(frozen=True)
class Check:
    name: str
    group: str
    kind: str
    body: Body
    cases: Cases
    observation: Observation
    from_json: Callable[[Mapping[str, Any]], Any]
    carriers: tuple[str, ...]
    lacks: Lacks
    #: How many of the schedule's cases one case costs: so many fewer are drawn.
    cost: int
    #: What the cases are drawn from: checks with the same draws see the same cases.
    draws: str
    #: On processes, whether it runs at every world size at hand, or at the first alone.
    every_size: bool = True

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.body) or ""

    @property
    def property(self) -> str:
        """The first sentence of the docstring: what the check says."""
        return " ".join(self.doc.split("\n\n")[0].split())


_registry: dict[str, Check] = {}


def check(
    group: str,
    cases: Cases,
    observation: Observation,
    from_json: Callable[[Mapping[str, Any]], Any],
    *,
    lacks: Lacks,
    kind: str = REQUIREMENT,
    carriers: tuple[str, ...] = (THREADS, PROCESSES),
    cost: int = 1,
    draws: str = "",
    every_size: bool = True,
) -> Callable[[Body], Callable[..., None]]:
    """Register a check's body and make a pytest function of it, run once a carrier.

    The body's docstring is the check's explanation: first the property, then the reason and what a failure
    leads to. Groups bind the arguments that their checks share with ``functools.partial``.
    """

    def register(body: Body) -> Callable[..., None]:
        name = body.__name__
        if name in _registry and _registry[name].body.__module__ != body.__module__:
            raise ValueError(f"two checks are called {name}")
        registered = Check(
            name, group, kind, body, cases, observation, from_json, carriers, lacks, cost, draws or name, every_size
        )
        _registry[name] = registered

        @pytest.mark.parametrize(
            "carrier",
            [
                pytest.param(carrier, marks=pytest.mark.xdist_group("processes") if carrier == PROCESSES else ())
                for carrier in carriers
            ],
        )
        def run(gate: Any, carrier: str) -> None:
            gate.run(registered, carrier)

        run.__name__ = run.__qualname__ = name
        run.__module__, run.__doc__ = body.__module__, body.__doc__
        return run

    return register


def registered() -> dict[str, Check]:
    """All checks by name, in the order of their groups: imports every module of checks beside this one."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"verify.{path.stem}")
    return dict(sorted(_registry.items(), key=lambda item: GROUPS.index(item[1].group)))


def select(only: str | None) -> dict[str, Check]:
    """The checks that ``--only GROUP_OR_CHECK[,…]`` names; all of them for None.

    Raises:
        ValueError: naming what is neither a group nor a check.
    """
    checks = registered()
    if only is None:
        return checks
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in checks and name not in GROUPS:
            raise ValueError(
                f"--only {name}: neither a group ({', '.join(GROUPS)}) nor a check; --list-checks names them"
            )
    if not names:
        raise ValueError("--only names nothing")
    return {name: check for name, check in checks.items() if name in names or check.group in names}
