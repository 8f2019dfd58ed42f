"""Runs checks on a target: draws cases, observes them on ranks, and makes findings of violations."""

from __future__ import annotations

import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from fixtures.ranks import NotCoveredByThreads, Ranks, RanksFailed
from fixtures.ranks.single import compared_with
from fixtures.ranks.stacks import release_frames
from verify.engine.check import THREADS, Case, Check, Target
from verify.engine.drawing import strategies_alone
from verify.engine.finding import Finding, NotCovered, Violation, call_in, finding_of, replay_command
from verify.engine.illustration import Illustrated
from verify.engine.interrupt import by_the_user
from verify.engine.journal import Journal, UnderWay
from verify.engine.known import Known
from verify.engine.launchers import PROCESS_WORLD_SIZES, THREAD_WORLD_SIZES, Launchers
from verify.engine.picture import Picture
from verify.engine.place import Place, place_at
from verify.engine.process_state import ProcessState
from verify.engine.profile import PROFILES, Profile
from verify.engine.raised import frames_outside_torch
from verify.engine.result import (
    BLOCKED,
    FAILED,
    FAILURES,
    INHERITED,
    NOT_APPLICABLE,
    NOT_PROVIDED,
    NOT_TRIGGERED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Result,
)


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
    #: Checks that others may rest on, by name, and how they ended, by target and name.
    bases: Mapping[str, Check] = field(default_factory=dict)
    judged: dict[tuple[Target, str], Result] = field(default_factory=dict)
    #: Where it is kept what is under way, for when the target ends the process.
    journal: Journal = field(default_factory=Journal)
    #: Told of each case that is run.
    on_case: Callable[[], None] | None = None
    #: Upstream's failures whose code the target has changed: by their methods, those that are others.
    changed: tuple[Known, ...] = ()

    def world_sizes(self, launcher: str) -> tuple[int, ...]:
        if launcher == THREADS:
            return THREAD_WORLD_SIZES
        return self.process_world_sizes if self.launchers.job is None else self.launchers.job.world_sizes()

    def ranks(self, check: Check, launcher: str) -> Ranks:
        """The ranks that a check is run on, on a launcher."""
        return self.launchers.get(launcher, check.on_cpu)

    def options(self, check: Check, launcher: str) -> str:
        """The options, beside those that name the check and its case, by which it is run as here."""
        backend = " --backend nccl" if self.launchers.on_nccl(launcher, check.on_cpu) else ""
        return f"{self.target.options()}{backend}"

    def judge(self, check: Check, launcher: str) -> Result:
        """Run one check on one launcher; never raises for what the target does.

        Under torchrun, rank 0 alone runs what needs no process, and every rank gets its result.
        """
        if self.launchers.on_a_gpu and not self.launchers.on_nccl(launcher, check.on_cpu):
            reason = "it is judged on the CPU, and under torchrun with --backend nccl this process is on a GPU"
            return Result(check.name, check.group, check.kind, SKIPPED, reason=f"{reason}: run it with --backend gloo")
        self.note(check, launcher)
        if check.rests_on and self._provides(check) and (blocked := self._blocked(check)) is not None:
            self.journal.begin(None)
            return blocked
        job = self.launchers.job
        if job is not None and launcher == THREADS:
            result: Result = job.broadcast(self._guarded(check, launcher) if job.rank == 0 else None)
        else:
            result = self._guarded(check, launcher)
        if self.case is None and launcher == check.launchers[0]:
            self.judged[self.target, check.name] = result
        return result

    def _provides(self, check: Check) -> bool:
        """Whether the target has what a check is about; what goes wrong in telling so is for the check to say."""
        return self._answers(lambda target: check.why_not_provided(target) is None)

    def _blocked(self, check: Check) -> Result | None:
        """How a check ends that rests on one that fails; None where it rests on none, or those do not fail."""
        for base in (self.bases[name] for name in check.rests_on if name in self.bases):
            key = (self.target, base.name)
            if key not in self.judged:
                self.judged[key] = replace(self, case=None).judge(base, base.launchers[0])
            result = self.judged[key]
            if result.outcome == BLOCKED and not self._tells_all_the_same(check):
                return replace(result, check=check.name, group=check.group, kind=check.kind)
            if result.outcome in (*FAILURES, XFAILED, INHERITED):
                if self._tells_all_the_same(check):
                    continue
                message = result.finding.message if result.finding else result.reason
                reason = f"rests on {base.name}, which fails: {message}"
                return Result(check.name, check.group, check.kind, BLOCKED, reason=reason, blocked_by=base.name)
        return None

    def _tells_all_the_same(self, check: Check) -> bool:
        """Whether a check can say something of the target although what it rests on fails; ranks of a job agree."""
        ask, job = check.tells_all_the_same, self.launchers.job
        if ask is None:
            return False
        if job is None:
            return self._answers(ask)
        told: bool = job.broadcast(self._answers(ask) if job.rank == 0 else False)
        return told

    def _answers(self, ask: Callable[[Target], bool]) -> bool:
        """What is answered of the target; no, where that fails."""
        try:
            return ask(self.target)
        except BaseException as error:
            if by_the_user(error):
                raise
            return False

    def note(self, check: Check, launcher: str, case: Case | None = None) -> None:
        """Keep in the journal what is under way from now on."""
        target = self.target
        self.journal.begin(
            UnderWay(
                "a case of it was run" if case else "it was asked whether the target provides what it is about",
                check.name,
                check.group,
                check.kind,
                launcher,
                target.spec,
                self.options(check, launcher),
                getattr(target, "subject_name", ""),
                case.as_json() if case else None,
                *self.journal.item,
                place=_place_of_code(check, target) if case else None,
            )
        )

    def _guarded(self, check: Check, launcher: str) -> Result:
        started = time.monotonic()
        self.note(check, launcher)
        try:
            result = self._judge(check, launcher)
        except BaseException as error:  # whatever the target did, it ends as a finding
            if by_the_user(error):
                raise
            under_way = self.journal.under_way
            finding = None if under_way is None else under_way.finding(violation_of_error(error))
            seconds = round(time.monotonic() - started, 3)
            result = Result(check.name, check.group, check.kind, FAILED, seconds=seconds, finding=finding)
        self.journal.begin(None)
        return result

    def _judge(self, check: Check, launcher: str) -> Result:
        started = time.monotonic()
        empty = Result(check.name, check.group, check.kind, PASSED)
        if reason := check.why_not_provided(self.target):
            return replace(empty, outcome=NOT_PROVIDED, reason=reason)
        if check.why_not_applicable is not None and (reason := check.why_not_applicable(self.target)):
            return replace(empty, outcome=NOT_APPLICABLE, reason=reason)
        with ProcessState() as process:
            return self._tried(_Trial(self, check, launcher, process), check, launcher, started)

    def _tried(self, trial: _Trial, check: Check, launcher: str, started: float) -> Result:
        empty = Result(check.name, check.group, check.kind, PASSED)
        entries = [entry for entry in self.known if entry.check == check.name]
        expected: Finding | None = None
        outcome, reason = PASSED, ""
        try:
            for entry in entries:
                violation = trial.first_violation(partial(_covered, (entry,), launcher))
                if violation is None and (trial.cases_of_last_search == 0 or entry.avoidable):
                    continue  # no case here meets the entry's condition, or the target works around it
                if violation is None:
                    if launcher != check.launchers[0]:
                        continue  # of the few cases here none need show it; the first launcher tells
                    outcome, reason = XPASSED, f"listed as known, but passes: {entry.reason}"
                    break
                expected = trial.finding(violation)
                if not entry.explains(expected.render()):
                    outcome, reason = FAILED, f"fails otherwise than the known failure {entry.match!r}"
                    break
                outcome, reason = (INHERITED if entry.release else XFAILED), entry.words()
            if outcome in (PASSED, XFAILED, INHERITED) and not any(not entry.condition for entry in entries):
                violation = trial.first_violation(lambda case: not _covered(entries, launcher, case))
                if violation is not None:
                    outcome, reason = FAILED, ""
                    expected = self._beside_upstreams(trial.finding(violation))
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
            pictures=trial.pictures(expected is not None) if expected or outcome == PASSED else (),
        )

    def _beside_upstreams(self, finding: Finding) -> Finding:
        """A finding that says where upstream fails so, too, by code that the target has changed."""
        for entry in self.changed:
            if entry.check == finding.check and entry.explains(finding.render()):
                text = f"{entry.release} fails so, too: {entry.reason}. It counts here, as {_listed(entry.methods)} "
                text += f"{'is' if len(entry.methods) == 1 else 'are'} not upstream's any more."
                return replace(finding, details="\n\n".join(part for part in (finding.details, text) if part))
        return finding


def _listed(names: Iterable[str]) -> str:
    return " and ".join(name.rpartition(":")[2] for name in names)


def _covered(entries: Sequence[Known], launcher: str, case: Case) -> bool:
    return any(entry.covers(case, launcher) for entry in entries)


class _Trial:
    """One check on one launcher: its cases, and the smallest one that violates it."""

    def __init__(self, gate: Gate, check: Check, launcher: str, process: ProcessState) -> None:
        self.gate, self.check, self.launcher, self.process = gate, check, launcher, process
        self.drawn = 0
        self.compared = 0
        self.cases_of_last_search = 0
        self._violating: Case | None = None
        self.illustrated = Illustrated(check, gate.target)

    @property
    def ranks(self) -> Ranks:
        """What the check's cases are run on."""
        return self.gate.ranks(self.check, self.launcher)

    def _observe(self, case: Case) -> Any:
        try:
            seen = self.check.observation(self.ranks, self.gate.target, case)
        except RanksFailed as failure:
            # Without its causes, whose stacks hold on to all that ranks had.
            self.illustrated.observed(case, RanksFailed(failure.reason, failure.statuses))
            raise
        self.illustrated.observed(case, seen)
        return seen

    def pictures(self, violated: bool) -> tuple[Picture, ...]:
        """Pictures of the smallest case that violates, or of one that passed; none where none can be made."""
        return self.illustrated.pictures(self._violating if violated else None, self.compare)

    def _made(self, case: Case) -> tuple[bool | None, str]:
        """Make the check on a case; gives whether it had something to compare, and what of the process was damaged."""
        self.gate.note(self.check, self.launcher, case)
        if self.gate.on_case is not None:
            self.gate.on_case()
        try:
            with compared_with(self.ranks):
                triggered = self.check.body(case, self._observe, self.gate.target)
        except BaseException as error:
            damage = self._mended()  # first of all: nothing goes on without
            if damage and not by_the_user(error):
                return None, damage
            raise
        return triggered, self._mended()

    def _mended(self) -> str:
        """Put back what the case took of the process, and note what threads it left; gives what was taken, in words."""
        damage = self.process.mend()
        if threads := self.process.new_threads():
            self.gate.journal.threads_left(threads)
        return damage

    def compare(self, case: Case) -> Violation | None:
        """Observe and compare one case; gives the violation, if there is one."""
        self.illustrated.begin()
        violation = self._compare(case)
        self.illustrated.compared(case, violation is not None)
        return violation

    def _compare(self, case: Case) -> Violation | None:
        self.drawn += 1
        try:
            triggered, damage = self._made(case)
        except Violation as violation:
            release_frames(violation)
            return violation
        except RanksFailed as failure:
            for cause in failure.causes.values():
                root = cause.__cause__ or cause
                if isinstance(root, NotCoveredByThreads):
                    raise NotCovered(f"the threads' process group does not offer this: {root}") from failure
            return violation_of(failure, _place_of_code(self.check, self.gate.target))
        except NotCovered:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if by_the_user(error):
                raise
            release_frames(error)
            return violation_of_error(error)
        if damage:
            return Violation(damage)
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
        interrupted: list[tuple[Case, Violation]] = []
        deadline = [float("inf")]

        def run(case: Case) -> None:
            if case in found:
                raise found[case]
            if interrupted or time.monotonic() > deadline[0]:
                hypothesis.reject()
            try:
                violation = self.compare(case)
            except pytest.fail.Exception as error:  # pytest-timeout's, out of whatever was under way
                interrupted.append((case, Violation(f"the time of the check was up during this case: {error}")))
                raise
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
            with strategies_alone():
                seeded(settings(hypothesis.given(cases)(run)))()
        except Violation as smallest:
            self._violating = next(case for case, violation in found.items() if violation is smallest)
            return smallest
        except (Flaky, Unsatisfiable, pytest.fail.Exception):
            # The time for shrinking ran out between two runs of a case, or the time of the check in a case.
            ended = [*interrupted, *found.items()]
            if not ended:
                return None  # no case can be drawn
            self._violating, last = ended[-1]
            return last
        return None

    def finding(self, violation: Violation) -> Finding:
        """Make a finding of the violation of the last search."""
        case, gate = self._violating, self.gate
        assert case is not None
        return finding_of(
            violation,
            check=self.check.name,
            target=gate.target.spec,
            launcher=self.ranks.name,
            replay=replay_command(
                gate.options(self.check, self.launcher), self.check.name, self.launcher, case.as_json()
            ),
            world_size=case.world_size,
            case=case.as_json(),
            place=_place_of_code(self.check, gate.target),
        )


@lru_cache(maxsize=1024)
def _place_of_code(check: Check, target: Target) -> Place | None:
    """Where a check's code lies in a target; None where nothing tells, or telling it fails: that is no finding."""
    if check.place_of_code is None:
        return None
    try:
        return check.place_of_code(target)
    except BaseException as error:
        if by_the_user(error):
            raise
        return None


#: Frames of a stack that a finding shows of an exception which nothing expected.
_FRAMES = 6
_GATE = Path(__file__).parents[1]


def violation_of_error(error: BaseException) -> Violation:
    """Say of an exception that came out of an observation or a comparison where it was raised, and by whose code."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = frames_outside_torch(error)
    place = inner[-1] if inner else None
    own = place is None or Path(place.filename).is_relative_to(_GATE)
    whose = "the gate itself failed, which is a defect of the gate, with" if own else "the target's code raised"
    where = f" ({place.filename}, line {place.lineno}, in {place.name})" if place is not None else ""
    text = " ".join(str(error).split()) or "no message"
    return Violation(
        f"{whose} {type(error).__name__}: {text}{where}",
        details="".join(traceback.format_list(frames[-_FRAMES:])),
        place=None if own or place is None else place_at(place.filename, place.lineno, place.name),
    )


#: States of a rank, those first that say most about why a run failed: what others raise, a death has led to.
_AT_FAULT = ("killed", "exited", "raised", "running", "waiting", "finished")


def violation_of(failure: RanksFailed, code: Place | None = None) -> Violation:
    """Say of a failed run which rank is at fault, and where in the buffer that was, as far as it is known.

    ``code``: where the code lies that was run; what was raised in the same file is placed there.
    """
    culprits = sorted(failure.statuses, key=lambda status: _AT_FAULT.index(status.state))
    places = (call_in(status.detail) for status in culprits)
    call, frame = next((place for place in places if place[0] is not None), (None, None))
    return Violation(
        failure.reason,
        rank=culprits[0].rank if culprits else None,
        call=call,
        frame=frame,
        details="\n".join(str(failure).splitlines()[1:]),
        place=_raised_in(failure, culprits[0].rank, code) if culprits and code else None,
    )


def _raised_in(failure: RanksFailed, rank: int, code: Place) -> Place | None:
    """The innermost line, of the file that some code lies in, that a rank's exception has come through."""
    frames: list[traceback.FrameSummary] = []
    error = failure.causes.get(rank)
    while error is not None:
        frames += traceback.extract_tb(error.__traceback__)
        error = error.__cause__
    own = [frame for frame in frames if os.path.abspath(frame.filename) == code.path]
    return place_at(code.path, own[-1].lineno, own[-1].name) if own else None
