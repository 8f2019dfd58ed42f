"""Judging one seeded bug by every check of its groups."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fixtures.forks.data.configured import write_configuration
from fixtures.forks.wrong import Wrong, wrong_targets
from verify.engine.check import THREADS, Check
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import PROFILES, Profile
from verify.engine.result import FAILURES
from verify.groups import registered
from verify.target.naming import Target

#: What bugs of these kinds are made of; it meets every requirement.
BASES = {
    "buffer": "fixtures.forks.buffer:SteppedBuffer",
    "batched": "fixtures.forks.batched:SteppedBatches",
    "training": "fixtures.forks.training:SteppedLoop",
}
#: How a check ended that fails on what the bug is made of, too.
WITHOUT_IT = "fails without the bug"

#: A parity check is made on threads, as if it were about their process group: the arithmetic is the same.
_PARITY = "parity"


@dataclass(frozen=True)
class Caught:
    """A bug, and how the checks of its groups ended on it."""

    bug: str
    #: The check that it is for.
    check: str
    #: The outcome by check.
    outcomes: dict[str, str]
    seconds: float

    @property
    def by(self) -> tuple[str, ...]:
        """The checks that fail on it."""
        return tuple(check for check, outcome in self.outcomes.items() if outcome in FAILURES)


def bugs_called(names: str) -> list[Wrong]:
    """The seeded bugs whose names hold one of these, which commas part."""
    return [bug for bug in wrong_targets() if any(part in bug.name for part in names.split(","))]


def base_of(bug: Wrong) -> Wrong | None:
    """What a bug is made of, as if it were a bug for the same check; None where it is made of nothing here."""
    kind = bug.name.partition(":")[0]
    spec = BASES.get(kind)
    if spec is None or bug.options.get("spec") == spec:
        return None
    return Wrong(f"{kind}:", {"spec": spec}, bug.check, bug.groups)


def apart(caught: Caught, base: Caught) -> Caught:
    """A bug's outcomes without the failures of checks that fail on what it is made of, but for its own check's."""
    outcomes = {
        check: WITHOUT_IT if check in caught.by and check in base.by and check != caught.check else outcome
        for check, outcome in caught.outcomes.items()
    }
    return replace(caught, outcomes=outcomes)


def checks_for(bug: Wrong) -> list[Check]:
    """All checks of a bug's groups."""
    checks = registered()
    groups = bug.groups or (checks[bug.check].group,)
    return [check for check in checks.values() if check.group in groups]


def needs_processes(bug: Wrong) -> bool:
    """Whether the checks of a bug's groups are made on processes alone."""
    return all(launcher_for(check) != THREADS for check in checks_for(bug))


@contextmanager
def gate_for(bug: Wrong, launchers: Launchers, profile: Profile, seed: int = 0) -> Iterator[Gate]:
    """A gate that judges a bug, while its configuration of training is there."""
    torch.set_num_threads(1)  # at toy width threads wait for each other longer than they work
    with tempfile.TemporaryDirectory() as folder:
        options = dict(bug.options)
        if bug.configured is not None:
            options["config"] = str(write_configuration(Path(folder) / "fork.yaml", bug.configured))
        yield Gate(Target(**options), launchers, profile, process_world_sizes=(2,), seed=seed, bases=registered())


def launcher_for(check: Check) -> str:
    """What the ranks of a check are: threads, unless it needs processes."""
    return THREADS if THREADS in check.launchers or check.group == _PARITY else check.launchers[0]


def judge(launchers: Launchers, examples: int, bug: Wrong) -> Caught:
    """Judge a bug by every check of its groups, on two to eight ranks on threads, or on two processes."""
    started = time.monotonic()
    with gate_for(bug, launchers, replace(PROFILES["quick"], examples=examples, shrink_seconds=0)) as gate:
        processes = needs_processes(bug)
        outcomes = {
            check.name: gate.judge(check, check.launchers[0] if processes else THREADS).outcome
            for check in checks_for(bug)
        }
    return Caught(bug.name, bug.check, outcomes, time.monotonic() - started)


def judge_alone(examples: int, bug: Wrong) -> Caught:
    """Judge a bug by checks on threads, in a process that judges nothing else."""
    return judge(Launchers(), examples, bug)
