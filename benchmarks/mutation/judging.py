"""Judging what this process has in place by the checks of the gate, one after another."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.mutation import tensors
from benchmarks.mutation.bodies import Body
from benchmarks.mutation.mutants import Mutant
from benchmarks.mutation.reached import Lines, lines_run
from benchmarks.mutation.source import put_in_place
from verify.configuration.reading import why_no_data_path
from verify.engine.check import HAZARD, THREADS, Check
from verify.engine.judge import Gate
from verify.engine.launchers import PROCESS_WORLD_SIZES, Launchers
from verify.engine.profile import PROFILES
from verify.engine.result import FAILURES, NOT_PROVIDED, PASSED, SKIPPED, Result
from verify.groups import registered
from verify.target.models import construction

#: The gate's quick profile; whoever counts failures has no use for smaller ones.
PROFILE = replace(PROFILES["quick"], shrink_seconds=0)
#: For checks that the gate makes on processes alone: as many cases as it tries there.
ON_PROCESSES = replace(PROFILE, examples=PROFILE.process_examples * len(PROCESS_WORLD_SIZES))

KILLED = "killed"
#: Of requirements none fails, and of hazards one does: the gate shows it, and fails with --hazards fail.
HAZARDOUS = "hazard only"
#: None fails, and one that the unedited body passes cannot be made: the gate fails with --require.
NO_LONGER_MADE = "no longer made"
SURVIVED = "survived"
#: It could not be seen: none of the checks that concern it comes to the statement that is edited.
NOT_REACHED = "not reached"
#: The module cannot be imported.
DOES_NOT_RUN = "does not run"
TIMED_OUT = "timed out"
#: The gate does not begin: the target's model cannot be built at toy width, or its loader reads no annotations.
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
    #: What is run of the body's modules; None where that is not known.
    lines: Lines | None = None

    def reaches(self, mutant: Mutant) -> bool:
        """Whether the check comes to the edit; else it ends as it does on the unedited body."""
        return self.lines is None or any(
            mutant.statement[0] <= line <= mutant.statement[1] for line in self.lines.get(mutant.module, ())
        )


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


def baseline(body: Body, name: str) -> Timed:
    """Judge the body as it is by a check of its groups, in a process that has built nothing yet."""
    check, judge = registered()[name], _Judge(body)
    with lines_run([region.module for region in body.regions]) as lines:
        started = time.process_time()
        result = judge.result(check)
        seconds = time.process_time() - started
    reason = result.finding.message if result.finding else result.reason
    return Timed(check.name, check.kind, result.outcome, reason, seconds, lines)


def checks_of(groups: Collection[str]) -> frozenset[str]:
    """The names of all checks of some groups."""
    return frozenset(check.name for check in registered().values() if check.group in groups)


def order(timed: Sequence[Timed], groups: Collection[str], first: Collection[str] = ()) -> tuple[Timed, ...]:
    """The checks of some groups that can kill: those that the unedited body passes.

    Requirements before hazards, the cheapest first; before all others those that are to be ``first``.
    """
    wanted = checks_of(groups)
    passed = [one for one in timed if one.outcome == PASSED and one.check in wanted]
    return tuple(sorted(passed, key=lambda one: (one.check not in first, one.kind == HAZARD, one.seconds)))


def judge(body: Body, mutant: Mutant, timed: Sequence[Timed], every_check: bool) -> Judged:
    """Put a mutant in place in this process, and judge it by checks that come to it until one fails, or by all of them.

    ``timed``: how the unedited body ended.
    """
    tensors.met = 0
    try:
        put_in_place(mutant.module, mutant.text)
    except BaseException as error:
        return Judged(DOES_NOT_RUN, message=f"{type(error).__name__}: {error}", seconds=time.process_time())
    try:
        # as the gate does before its checks
        construction(body.target, tracker=True)
        refused = body.target.loader and why_no_data_path(body.target)
    except BaseException as error:
        refused = f"{type(error).__name__}: {error}"
    if refused:
        return Judged(REFUSED, message=refused, seconds=time.process_time())
    region = body.region(mutant.module)
    probes = region.probes if mutant.edits_tensors else ()
    judge, checks, message = _Judge(body), registered(), ""
    killers: list[str] = []
    lost: list[str] = []
    asked = [one.check for one in order(timed, region.groups, probes) if one.reaches(mutant)]
    for name in asked:
        if probes and name not in probes and tensors.met == 0:
            return Judged(NO_TENSOR, seconds=time.process_time())
        if killers and not every_check:
            break
        result = judge.result(checks[name])
        if result.outcome in FAILURES:
            killers.append(name)
            message = message or (result.finding.message if result.finding else result.reason)
        elif result.outcome in (NOT_PROVIDED, SKIPPED):
            lost.append(result.reason)
    if mutant.edits_tensors and tensors.met == 0:
        return Judged(NO_TENSOR, seconds=time.process_time())
    required = [name for name in killers if checks[name].kind != HAZARD]
    ways = ((required, KILLED), (killers, HAZARDOUS), (lost, NO_LONGER_MADE), (asked, SURVIVED))
    outcome = next((outcome for names, outcome in ways if names), NOT_REACHED)
    return Judged(outcome, tuple(killers), message or "".join(lost[:1]), time.process_time())
