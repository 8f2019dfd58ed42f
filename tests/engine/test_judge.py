"""How a case that does not come to an end is told: as a finding of the check under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.judging import CHECKS, SEEDED
from verify.engine.check import THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.result import FAILED, Result
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]
#: As pytest-timeout ends a test, out of whatever is under way.
TIME_IS_UP = "Timeout (>300.0s) from pytest-timeout."


def _judged(body: Any, launchers: Launchers) -> Result:
    check = replace(CHECKS["test_coverage"], body=body)
    return Gate(Target("sam3"), launchers, SEEDED).judge(check, THREADS)


@pytest.mark.parametrize("first", [1, 4])
def test_the_time_of_a_check_is_up_in_a_case(first: int, launchers: Launchers) -> None:
    calls = []

    def body(case: Any, observe: Any, target: Any) -> None:
        calls.append(case)
        if len(calls) >= first:
            pytest.fail(TIME_IS_UP)

    result = _judged(body, launchers)
    assert result.outcome == FAILED
    assert result.finding is not None
    assert result.finding.message == f"the time of the check was up during this case: {TIME_IS_UP}"
    assert result.finding.case == calls[-1].as_json()
    assert len(calls) == first, "nothing is tried again: it may never end"
