"""A buffer that fails on the simplest case is wrong; one that nothing can stand in for is not provided."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest

from fixtures.ranks import Threads
from tests.judging import CHECKS, FEW
from verify.engine.check import THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.result import BLOCKED, FAILED, NOT_PROVIDED, PASSED, Result
from verify.target.naming import Target
from verify.video import scripting


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for a buffer that does not return."""
    monkeypatch.setattr(scripting, "Threads", partial(Threads, patience=2.0))
    monkeypatch.setattr("verify.engine.launchers.Threads", partial(Threads, patience=2.0))


@pytest.fixture
def launchers() -> Iterator[Launchers]:
    made = Launchers()
    yield made
    made.close()


def _judge(target: str, check: str, launchers: Launchers) -> Result:
    gate = Gate(Target(f"fixtures.forks.{target}"), launchers, FEW, bases=CHECKS)
    return gate.judge(CHECKS[check], THREADS)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("buffer:FailsAtOnce", "call 0, frame 0: KeyError"),
        ("endings:NeverReturns", "call 0, frame 0: RecursionError"),
        ("endings:LoopsAtOnce", "no heartbeat for 2 s"),
    ],
)
def test_a_first_call_that_fails_is_a_failure_and_blocks_the_rest(launchers: Launchers, target: str, says: str) -> None:
    first = _judge(target, "test_answers_at_all", launchers)
    assert first.outcome == FAILED, first
    assert first.finding is not None
    assert re.search(says, first.finding.message), first.finding.message
    for check in ("test_coverage", "test_object_ids"):
        rest = _judge(target, check, launchers)
        assert (rest.outcome, rest.blocked_by) == (BLOCKED, "test_answers_at_all"), rest


@pytest.mark.parametrize(
    ("target", "outcome"), [("endings:DetectsWithItsBackbone", NOT_PROVIDED), ("endings:Exits", PASSED)], ids=str
)
def test_a_target_that_answers_by_itself_is_not_accused(launchers: Launchers, target: str, outcome: str) -> None:
    result = _judge(target, "test_answers_at_all", launchers)
    assert result.outcome == outcome, result
    if outcome == NOT_PROVIDED:
        assert "fails before it calls self.forward_grounding" in result.reason
