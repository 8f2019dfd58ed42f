"""Judging what this process has in place by the checks of the gate, one after another."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.mutation import tensors
from benchmarks.mutation.bodies import Body
from benchmarks.mutation.mutants import Mutant
from benchmarks.mutation.source import put_in_place
from verify.engine.check import HAZARD, THREADS, Check
from verify.engine.judge import Gate
from verify.engine.launchers import PROCESS_WORLD_SIZES, Launchers
from verify.engine.profile import PROFILES
from verify.engine.result import FAILURES, PASSED, Result
from verify.groups import registered
from verify.target.models import construction

#: The gate's quick profile; whoever counts failures has no use for smaller ones.
PROFILE = replace(PROFILES["quick"], shrink_seconds=0)
#: For checks that the gate makes on processes alone: as many cases as it tries there.
ON_PROCESSES = replace(PROFILE, examples=PROFILE.process_examples * len(PROCESS_WORLD_SIZES))

KILLED = "killed"
#: Of requirements none fails, and of hazards one does: the gate shows it, and fails with --hazards fail.
HAZARDOUS = "hazard only"
SURVIVED = "survived"
#: The module cannot be imported.
DOES_NOT_RUN = "does not run"
TIMED_OUT = "timed out"
#: The gate does not begin: the target's model cannot be built at toy width.
REFUSED = "refused"
#: The process ended by itself, which the gate's command reports as a failure.
ENDED = "ended the process"
#: An edit of tensors at a place that no tensor comes to.
NO_TENSOR = "no tensor there"


@dataclass(frozen=True)
class Timed:
    """A check of the unedited body."""

    check: str
    kind: str
    outcome: str
    reason: str
    #: Of the processor.
    seconds: float


@dataclass(frozen=True)
class Judged:
    """How a mutant ended."""

    outcome: str
    #: The checks that failed; the first alone where others were not asked.
    killers: tuple[str, ...] = ()
    message: str = ""
    #: Of the processor; None where the process was ended.
    seconds: float | None = None


class _Judge:
    """Judges a body by one check at a time."""

    def __init__(self, body: Body) -> None:
        torch.set_num_threads(1)
        self._gate = Gate(body.target, Launchers(), PROFILE, bases=registered())

    def result(self, check: Check) -> Result:
        on_threads = THREADS in check.launchers
        return replace(self._gate, profile=PROFILE if on_threads else ON_PROCESSES).judge(check, THREADS)


def baseline(body: Body) -> tuple[Timed, ...]:
    """Judge the body as it is, by every check of its groups."""
    judge = _Judge(body)
    timed = []
    for check in (check for check in registered().values() if check.group in body.groups):
        started = time.process_time()
        result = judge.result(check)
        reason = result.finding.message if result.finding else result.reason
        timed.append(Timed(check.name, check.kind, result.outcome, reason, time.process_time() - started))
    return tuple(timed)


def checks_of(groups: Collection[str]) -> frozenset[str]:
    """The names of all checks of some groups."""
    return frozenset(check.name for check in registered().values() if check.group in groups)


def order(timed: Sequence[Timed], groups: Collection[str], first: Collection[str] = ()) -> tuple[str, ...]:
    """The checks of some groups that can kill: those that the unedited body passes.

    Requirements before hazards, the cheapest first; before all others those that are to be ``first``.
    """
    wanted = checks_of(groups)
    passed = [one for one in timed if one.outcome == PASSED and one.check in wanted]
    ordered = sorted(passed, key=lambda one: (one.check not in first, one.kind == HAZARD, one.seconds))
    return tuple(one.check for one in ordered)


def judge(body: Body, mutant: Mutant, timed: Sequence[Timed], every_check: bool) -> Judged:
    """Put a mutant in place in this process, and judge it by checks until one fails, or by all of them.

    ``timed``: how the unedited body ended.
    """
    tensors.met = 0
    try:
        put_in_place(mutant.module, mutant.text)
    except BaseException as error:
        return Judged(DOES_NOT_RUN, message=f"{type(error).__name__}: {error}", seconds=time.process_time())
    try:
        construction(body.target, tracker=True)  # as the gate does before its checks
    except BaseException as error:
        return Judged(REFUSED, message=f"{type(error).__name__}: {error}", seconds=time.process_time())
    region = body.region(mutant.module)
    probes = region.probes if mutant.edits_tensors else ()
    judge, checks, message = _Judge(body), registered(), ""
    killers: list[str] = []
    for name in order(timed, region.groups, probes):
        if probes and name not in probes and tensors.met == 0:
            return Judged(NO_TENSOR, seconds=time.process_time())
        if killers and not every_check:
            break
        result = judge.result(checks[name])
        if result.outcome in FAILURES:
            killers.append(name)
            message = message or (result.finding.message if result.finding else result.reason)
    if mutant.edits_tensors and tensors.met == 0:
        return Judged(NO_TENSOR, seconds=time.process_time())
    required = [name for name in killers if checks[name].kind != HAZARD]
    outcome = KILLED if required else HAZARDOUS if killers else SURVIVED
    return Judged(outcome, tuple(killers), message, time.process_time())
