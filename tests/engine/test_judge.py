"""How the judge ends: in a case that does not come to an end, and with entries that say what is known to fail."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.judging import CHECKS, SEEDED
from verify.engine.check import THREADS
from verify.engine.finding import Violation
from verify.engine.judge import Gate
from verify.engine.known import Known
from verify.engine.launchers import Launchers
from verify.engine.result import BLOCKED, FAILED, INHERITED, PASSED, XPASSED, Result
from verify.target.naming import Target
from verify.video.scan import Scan

pytest_plugins = ["tests.judging"]
#: As pytest-timeout ends a test, out of whatever is under way.
TIME_IS_UP = "Timeout (>300.0s) from pytest-timeout."


def _judged(body: Any, launchers: Launchers, *known: Known) -> Result:
    check = replace(CHECKS["test_coverage"], body=body)
    return Gate(Target("sam3"), launchers, SEEDED, known).judge(check, THREADS)


def test_a_defect_of_upstream_whose_code_was_changed_is_told_as_that(launchers: Launchers) -> None:
    def body(case: Any, observe: Any, target: Any) -> None:
        raise Violation("the flag does nothing", details="seen twice")

    check = replace(CHECKS["test_coverage"], body=body)
    entry = Known(check.name, "it is not read", match="does nothing", methods={"read:flag": "1"}, release="sam3 0.1.4")
    others = replace(entry, check="test_residency"), replace(entry, match="else")
    result = Gate(Target("sam3"), launchers, SEEDED, changed=(*others, entry)).judge(check, THREADS)
    assert result.outcome == FAILED
    assert result.finding is not None
    said = "sam3 0.1.4 fails so, too: it is not read. It counts here, as flag is not upstream's any more."
    assert result.finding.details == f"seen twice\n\n{said}"


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


def _drawn(launchers: Launchers, scans: st.SearchStrategy[Scan]) -> list[Scan]:
    cases: list[Scan] = []
    check = replace(
        CHECKS["test_coverage"],
        cases=lambda target, world_sizes: scans,
        body=lambda case, observe, target: cases.append(case),
    )
    assert Gate(Target("sam3"), launchers, SEEDED).judge(check, THREADS).outcome == PASSED
    return cases


def test_the_cases_of_a_check_do_not_depend_on_what_is_imported(
    launchers: Launchers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = st.builds(Scan, frames=st.integers(10**6, 10**7), world_size=st.just(2))
    before = _drawn(launchers, scans)
    (tmp_path / "a_fork_of_ours.py").write_text(f"NUMBERS = {list(range(10**6, 10**6 + 500))}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("a_fork_of_ours")
    assert _drawn(launchers, scans) == before


def test_no_case_is_made_of_parts_of_another(launchers: Launchers) -> None:
    scans = st.builds(
        Scan,
        frames=st.integers(1, 10**6),
        world_size=st.just(2),
        start=st.integers(2, 10**6),
        seed=st.integers(3, 10**6),
    )
    cases = _drawn(launchers, scans)
    assert len(cases) == SEEDED.examples
    assert all(len({case.frames, case.start, case.seed}) == 3 for case in cases)


ENTRY = Known("test_coverage", "a kernel for inference", match="in the kernel", methods={"kernel": "0"}, release="3")
AVOIDABLE = replace(ENTRY, avoidable=True)


@pytest.mark.parametrize(
    ("entry", "fails_with", "outcome"),
    [
        (ENTRY, None, XPASSED),
        (AVOIDABLE, None, PASSED),
        (ENTRY, "raised in the kernel", INHERITED),
        (AVOIDABLE, "raised in the kernel", INHERITED),
        (ENTRY, "frames are exchanged", FAILED),
        (AVOIDABLE, "frames are exchanged", FAILED),
    ],
)
def test_who_works_around_a_defect_may_pass(
    entry: Known, fails_with: str | None, outcome: str, launchers: Launchers
) -> None:
    def body(case: Any, observe: Any, target: Any) -> None:
        if fails_with is not None:
            raise Violation(fails_with)

    result = _judged(body, launchers, entry)
    assert result.outcome == outcome, result
    assert result.cases == (0 if fails_with else 25)


def _crashes(target: Any) -> bool:
    raise ValueError("cannot be asked")


@pytest.mark.parametrize(
    ("tells", "outcome"), [(None, BLOCKED), (lambda target: False, BLOCKED), (_crashes, BLOCKED), (bool, PASSED)]
)
def test_what_rests_on_a_failure_is_blocked_unless_it_tells_all_the_same(
    tells: Any, outcome: str, launchers: Launchers
) -> None:
    def fails(case: Any, observe: Any, target: Any) -> None:
        raise Violation("no")

    base = replace(CHECKS["test_prefetch"], body=fails, rests_on=())
    check = replace(
        CHECKS["test_coverage"],
        body=lambda case, observe, target: None,
        rests_on=("test_prefetch",),
        tells_all_the_same=tells,
    )
    bases = {"test_prefetch": base}
    result = Gate(Target("sam3"), launchers, SEEDED, bases=bases).judge(check, THREADS)
    assert result.outcome == outcome
    assert result.blocked_by == ("test_prefetch" if outcome == BLOCKED else "")
