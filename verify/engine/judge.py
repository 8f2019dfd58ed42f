"""Runs checks on a target: draws cases, observes them on ranks, and makes findings of violations."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from fixtures.ranks import RanksFailed
from verify.engine.check import THREADS, Case, Check, Target
from verify.engine.finding import Finding, NotCovered, Violation, call_in, replay_command
from verify.engine.known import Known
from verify.engine.launchers import PROCESS_WORLD_SIZES, THREAD_WORLD_SIZES, Launchers
from verify.engine.profile import PROFILES, Profile
from verify.engine.result import FAILED, NOT_PROVIDED, NOT_TRIGGERED, PASSED, SKIPPED, XFAILED, XPASSED, Result


@dataclass(frozen=True)
class Gate:
    """One verification: what is verified, on what, and how thoroughly."""

    target: Target
    launchers: Launchers
    profile: Profile = PROFILES["quick"]
    known: tuple[Known, ...] = ()
    process_world_sizes: tuple[int, ...] = PROCESS_WORLD_SIZES
    #: Mixed into every check's seed; 0 except in randomised profiles.
    seed: int = 0
    #: A case to run instead of drawn ones.
    case: Case | None = None

    def world_sizes(self, launcher: str) -> tuple[int, ...]:
        if launcher == THREADS:
            return THREAD_WORLD_SIZES
        return self.process_world_sizes if self.launchers.job is None else self.launchers.job.world_sizes()

    def judge(self, check: Check, launcher: str) -> Result:
        """Run one check on one launcher; never raises for what the target does.

        Under torchrun, rank 0 alone runs what needs no process, and every rank gets its result.
        """
        job = self.launchers.job
        if job is not None and launcher == THREADS:
            return job.broadcast(self._judge(check, launcher) if job.rank == 0 else None)
        return self._judge(check, launcher)

    def _judge(self, check: Check, launcher: str) -> Result:
        started = time.monotonic()
        empty = Result(check.name, check.group, check.kind, PASSED)
        if reason := check.why_not_provided(self.target):
            return replace(empty, outcome=NOT_PROVIDED, reason=reason)
        trial = _Trial(self, check, launcher)
        entries = [entry for entry in self.known if entry.check == check.name]
        expected: Finding | None = None
        outcome, reason = PASSED, ""
        try:
            for entry in entries:
                violation = trial.first_violation(partial(_covered, (entry,), launcher))
                if violation is None and trial.cases_of_last_search == 0:
                    continue  # no case here meets the entry's condition
                if violation is None:
                    outcome, reason = XPASSED, f"listed as known, but passes: {entry.reason}"
                    break
                expected = trial.finding(violation)
                if not entry.explains(expected.render()):
                    outcome, reason = FAILED, f"fails otherwise than the known failure {entry.match!r}"
                    break
                outcome, reason = XFAILED, entry.reason
            if outcome in (PASSED, XFAILED) and not any(not entry.condition for entry in entries):
                violation = trial.first_violation(lambda case: not _covered(entries, launcher, case))
                if violation is not None:
                    outcome, reason, expected = FAILED, "", trial.finding(violation)
        except NotCovered as error:
            outcome, reason = SKIPPED, str(error)
        if trial.compared == 0 and outcome == PASSED:
            outcome, reason = NOT_TRIGGERED, "no case that was drawn had anything to compare"
            if trial.drawn == 0:
                sizes = ", ".join(map(str, self.world_sizes(launcher)))
                outcome, reason = SKIPPED, f"no case of this check can be drawn at world size {sizes}"
        return replace(
            empty,
            outcome=outcome,
            cases=trial.compared,
            seconds=round(time.monotonic() - started, 3),
            finding=expected,
            reason=reason,
            applicable=trial.drawn > 0 or outcome != SKIPPED,
        )


def _covered(entries: Sequence[Known], launcher: str, case: Case) -> bool:
    return any(entry.covers(case, launcher) for entry in entries)


class _Trial:
    """One check on one launcher: its cases, and the smallest one that violates it."""

    def __init__(self, gate: Gate, check: Check, launcher: str) -> None:
        self.gate, self.check, self.launcher = gate, check, launcher
        self.drawn = 0
        self.compared = 0
        self.cases_of_last_search = 0
        self._violating: Case | None = None

    def _observe(self, case: Case) -> Any:
        return self.check.observation(self.gate.launchers.get(self.launcher), self.gate.target, case)

    def compare(self, case: Case) -> Violation | None:
        """Observe and compare one case; gives the violation, if there is one."""
        self.drawn += 1
        try:
            triggered = self.check.body(case, self._observe, self.gate.target)
        except Violation as violation:
            return violation
        except RanksFailed as failure:
            for cause in failure.causes.values():
                root = cause.__cause__ or cause
                if isinstance(root, NotImplementedError):
                    raise NotCovered(f"the threads' process group does not offer this: {root}") from failure
            return violation_of(failure)
        if triggered is not False:
            self.compared += 1
            self.cases_of_last_search += 1
        return None

    def first_violation(self, wanted: Callable[[Case], bool]) -> Violation | None:
        """Try cases until one violates the check, then make it smaller. Gives the smallest one's violation."""
        self.cases_of_last_search = 0
        gate = self.gate
        if gate.case is not None:
            return self._only(gate.case) if wanted(gate.case) else None
        if self.launcher == THREADS:
            examples = max(2, gate.profile.examples // self.check.cost)
            return self._search(st.sampled_from(gate.world_sizes(THREADS)), examples, wanted, shrink=True)
        for world_size in gate.world_sizes(self.launcher)[: None if self.check.every_size else 1]:
            # Ranks in processes are slow: no search for a smaller case, which threads mostly have found already.
            examples = max(1, gate.profile.process_examples // self.check.cost)
            violation = self._search(st.just(world_size), examples, wanted, shrink=False)
            if violation is not None:
                return violation
        return None

    def _only(self, case: Case) -> Violation | None:
        violation = self.compare(case)
        self._violating = case if violation else None
        return violation

    def _search(
        self, world_sizes: st.SearchStrategy[int], examples: int, wanted: Callable[[Case], bool], shrink: bool
    ) -> Violation | None:
        found: dict[Case, Violation] = {}
        deadline = [float("inf")]

        def run(case: Case) -> None:
            if case in found:
                raise found[case]
            if time.monotonic() > deadline[0]:
                hypothesis.reject()
            violation = self.compare(case)
            if violation is not None:
                deadline[0] = min(deadline[0], time.monotonic() + self.gate.profile.shrink_seconds)
                found[case] = violation
                self._violating = case
                raise violation

        phases = [hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * shrink
        settings = hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=phases,
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
            verbosity=hypothesis.Verbosity.quiet,
        )
        cases = self.check.cases(self.gate.target, world_sizes).filter(wanted)
        seeded = hypothesis.seed(zlib.crc32(self.check.draws.encode()) + self.gate.seed)
        try:
            seeded(settings(hypothesis.given(cases)(run)))()
        except Violation as smallest:
            self._violating = next(case for case, violation in found.items() if violation is smallest)
            return smallest
        except Flaky:  # the time for shrinking ran out between two runs of a case
            self._violating, last = next(reversed(found.items()))
            return last
        except Unsatisfiable:
            return None
        return None

    def finding(self, violation: Violation) -> Finding:
        """Make a finding of the violation of the last search."""
        case, gate = self._violating, self.gate
        assert case is not None
        ranks = gate.launchers.get(self.launcher)
        options = gate.target.options()
        return Finding(
            check=self.check.name,
            target=gate.target.spec,
            launcher=ranks.name,
            message=violation.message,
            replay=replay_command(options, self.check.name, self.launcher, case.as_json()),
            world_size=case.world_size,
            rank=violation.rank,
            call=violation.call,
            frame=violation.frame,
            tensor=violation.tensor,
            expected=violation.expected,
            got=violation.got,
            table=violation.table,
            case=case.as_json(),
            details=violation.details,
        )


#: States of a rank, those first that say most about why a run failed: what others raise, a death has led to.
_AT_FAULT = ("killed", "exited", "raised", "running", "waiting", "finished")


def violation_of(failure: RanksFailed) -> Violation:
    """Say of a failed run which rank is at fault, and where in the buffer that was, as far as it is known."""
    culprits = sorted(failure.statuses, key=lambda status: _AT_FAULT.index(status.state))
    places = (call_in(status.detail) for status in culprits)
    call, frame = next((place for place in places if place[0] is not None), (None, None))
    return Violation(
        failure.reason,
        rank=culprits[0].rank if culprits else None,
        call=call,
        frame=frame,
        details="\n".join(str(failure).splitlines()[1:]),
    )
