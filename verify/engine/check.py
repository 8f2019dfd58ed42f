"""Checks and their registry: one function, one property, one public name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hypothesis import strategies as st

from fixtures.ranks import Ranks
from verify.engine.picture import Pictures
from verify.engine.place import Place

REQUIREMENT = "requirement"
HAZARD = "hazard"
#: Launchers of ranks. ``processes`` are gloo or NCCL processes, or the ranks that torchrun started.
THREADS = "threads"
PROCESSES = "processes"


class Target(Protocol):
    """What is verified: hashable, so that what is known of it can be kept, and picklable, so that ranks get it."""

    @property
    def spec(self) -> str: ...

    def __hash__(self) -> int: ...

    def options(self) -> str:
        """The command-line options that name it."""


class Case(Protocol):
    """What a check is tried on: frozen, hashable, and written as JSON so that it can be run again."""

    @property
    def world_size(self) -> int: ...

    def as_json(self) -> dict[str, Any]: ...


#: Draws cases for a target, given a strategy for the world sizes at hand.
Cases = Callable[[Any, st.SearchStrategy[int]], st.SearchStrategy[Any]]
#: Runs a case of a target on ranks and gives what they saw.
Observation = Callable[[Ranks, Any, Any], Any]
#: Compares one case with the reference, through a function that observes a case; raises Violation.
#: Gives False where the case had nothing to compare.
Body = Callable[[Any, Callable[[Any], Any], Any], bool | None]
#: Says why a target cannot be checked, or gives None.
WhyNotProvided = Callable[[Any], str | None]
#: Tells where the code of a target lies that a check is about, or gives None.
PlaceOfCode = Callable[[Any], Place | None]


@dataclass(frozen=True)
class Check:
    name: str
    group: str
    kind: str
    body: Body
    cases: Cases
    observation: Observation
    from_json: Callable[[Mapping[str, Any]], Any]
    launchers: tuple[str, ...]
    why_not_provided: WhyNotProvided
    #: How many of the schedule's cases one case costs: so many fewer are drawn.
    cost: int
    #: What the cases are drawn from: checks with the same draws see the same cases.
    draws: str
    #: On processes, whether it runs at every world size at hand, or at the first alone.
    every_size: bool = True
    #: Whether its processes are on gloo, and compute on the CPU, whatever --backend says.
    on_cpu: bool = False
    #: Whether it is made of each of a target's subjects, or of the target alone.
    per_subject: bool = False
    #: Checks that have to pass before this one can tell anything: where one fails, this one is blocked by it.
    rests_on: tuple[str, ...] = ()
    #: Says why a target does not promise what the check is about, or gives None.
    why_not_applicable: WhyNotProvided | None = None
    #: Tells whether the check can say something of a target although what it rests on fails there.
    tells_all_the_same: Callable[[Any], bool] | None = None
    #: Where the code lies that the check is about; a violation that names a place itself goes before.
    place_of_code: PlaceOfCode | None = None
    #: Gives pictures of a case that violates; none where there is nothing to draw.
    pictures: Pictures | None = None
    #: How much a case has to show, of those that pass; None: a check that passes has no pictures.
    shows: Callable[[Any], float] | None = None

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
    why_not_provided: WhyNotProvided,
    kind: str = REQUIREMENT,
    launchers: tuple[str, ...] = (THREADS, PROCESSES),
    cost: int = 1,
    draws: str = "",
    every_size: bool = True,
    on_cpu: bool = False,
    per_subject: bool = False,
    rests_on: tuple[str, ...] = (),
    why_not_applicable: WhyNotProvided | None = None,
    tells_all_the_same: Callable[[Any], bool] | None = None,
    place_of_code: PlaceOfCode | None = None,
    pictures: Pictures | None = None,
    shows: Callable[[Any], float] | None = None,
) -> Callable[[Body], Callable[..., None]]:
    """Register a check's body and make a pytest function of it, which the plugin runs once a launcher and subject.

    The body's docstring is the check's explanation: first the property, then the reason and what a failure
    leads to. Groups bind the arguments that their checks share with ``functools.partial``.
    """

    def register(body: Body) -> Callable[..., None]:
        name = body.__name__
        if name in _registry and _registry[name].body.__module__ != body.__module__:
            raise ValueError(f"two checks are called {name}")
        registered = Check(
            name,
            group,
            kind,
            body,
            cases,
            observation,
            from_json,
            launchers,
            why_not_provided,
            cost,
            draws or name,
            every_size,
            on_cpu,
            per_subject,
            tuple(base for base in rests_on if base != name),
            why_not_applicable,
            tells_all_the_same,
            place_of_code,
            pictures,
            shows,
        )
        _registry[name] = registered

        def run(gate: Any, launcher: str, subject: Any) -> None:
            gate.run(registered, launcher, subject)

        run.__name__ = run.__qualname__ = name
        run.__module__, run.__doc__ = body.__module__, body.__doc__
        run.check = registered  # type: ignore[attr-defined]
        return run

    return register


def registered() -> dict[str, Check]:
    """All checks whose modules have been imported, by name."""
    return dict(_registry)
