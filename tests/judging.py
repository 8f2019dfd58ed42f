"""Judges an implementation by one check, inside this process, and reads the finding.

A plugin of the modules that use its fixture: so they share one. It is imported before pytest could rewrite its
assertions, hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fixtures.forks.buffer.bugs import Bug
from fixtures.ranks import Ranks
from verify.engine.check import PROCESSES, THREADS
from verify.engine.finding import Finding
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import Profile
from verify.engine.result import FAILED, Result
from verify.groups import PRELOADED, registered
from verify.target.naming import Target

#: As many cases as the gate draws by default. The first one that fails is left as it was drawn: how small it gets, and
#: which of a bug's effects it shows then, hangs on how fast the machine is.
SEEDED = Profile("seeded", examples=25, process_examples=3, shrink_seconds=0)
#: A few cases for each check: what must pass does so in all of them, so every one is run.
FEW = Profile("few", examples=3, process_examples=1, shrink_seconds=0.3)
CHECKS = registered()


@pytest.fixture(scope="session")
def launchers() -> Iterator[Launchers]:
    """The groups of ranks of all tests that judge: starting processes is what costs most."""
    made = Launchers(preload=(*PRELOADED, "tests.preload"))
    yield made
    made.close()


@pytest.fixture
def ranks(launchers: Launchers) -> Ranks:
    """Ranks that are processes."""
    return launchers.get(PROCESSES)


class _TwoOrThreeRanks(Gate):
    """A gate that is quicker on threads."""

    def world_sizes(self, launcher: str) -> tuple[int, ...]:
        return (2, 3) if launcher == THREADS else super().world_sizes(launcher)


def judge(target: str, check: str, launchers: Launchers, launcher: str = THREADS, profile: Profile = SEEDED) -> Result:
    """Judge a target by one check; with the profile ``FEW``, on few ranks."""
    gate = _TwoOrThreeRanks if profile is FEW else Gate
    return gate(Target(target), launchers, profile).judge(CHECKS[check], launcher)


def assert_caught(result: Result, says: str) -> Finding:
    """See that a check failed with a message that matches ``says``, and give the finding."""
    assert result.outcome == FAILED, result
    assert result.finding is not None
    assert re.search(says, result.finding.message), result.finding.render()
    return result.finding


def assert_as_stated(bug: Bug, finding: Finding) -> None:
    """See that a finding on threads says what is stated of a seeded bug, where it is, and how to run it again."""
    text = finding.render()
    assert re.search(bug.says, finding.message), text
    missing = [field for field in bug.where if getattr(finding, field) is None]
    assert not missing, text
    assert finding.world_size is not None
    assert re.search(r"\branks? \d", text), text
    assert f"--target {bug.target} --only {bug.check} --launcher threads --case '" in text
    assert text.startswith(f"{bug.check}: ")


def seeded_finding(bug: Bug, launchers: Launchers, launcher: str) -> Finding:
    """Judge a seeded bug by the check that it names, and give the finding; the finding's own case must fail again."""
    check = CHECKS[bug.check]
    gate = Gate(Target(bug.target), launchers, SEEDED)
    result = gate.judge(check, launcher)
    assert (result.check, result.outcome, result.reason) == (bug.check, FAILED, ""), f"{bug.doc}: {result}"
    assert result.finding is not None
    again = replace(gate, case=check.from_json(result.finding.case)).judge(check, launcher)
    assert again.outcome == FAILED, f"the case of the finding passes: {result.finding.render()}"
    assert again.finding is not None
    assert again.finding.case == result.finding.case
    return result.finding
