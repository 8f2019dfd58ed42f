"""The report in lines of text: little where all is well, each cause once, everything where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from verify.engine.check import HAZARD, REQUIREMENT
from verify.engine.finding import Finding
from verify.engine.report import VIOLATES, Counts, Report
from verify.engine.result import (
    BLOCKED,
    FAILED,
    INHERITED,
    MISSING,
    NOT_APPLICABLE,
    NOT_PROVIDED,
    NOT_TRIGGERED,
    OUTCOMES,
    PASSED,
    SKIPPED,
    XPASSED,
    Result,
)
from verify.engine.summary import summary


def result(check: str, outcome: str, group: str = "data", kind: str = REQUIREMENT, **more: str) -> Result:
    message = more.pop("message", "")
    finding = Finding(check, "mine", "threads", message, f"replay {check}") if message else None
    return Result(check, group, kind, outcome, 1, 1.0, finding, more.get("reason", ""), more.get("subject", ""))


def lines(results: Sequence[Result], counts: Counts | None = None, everything: bool = False) -> list[str]:
    report = Report({"spec": "mine"}, {}, tuple(results), VIOLATES, "so it is")
    return summary(report, counts or Counts(), everything)


def test_a_group_that_passes_is_one_line() -> None:
    several = [result(f"test_{number}", PASSED) for number in range(30)]
    assert lines(several) == ["data  30 passed; 30.0 s", "", "verdict: mine violates: so it is"]


def test_what_a_target_lacks_is_one_line_a_group() -> None:
    lacking = [result(f"test_{number}", NOT_PROVIDED, reason="it has none") for number in range(30)]
    assert lines(lacking)[:2] == ["data  30 not provided: it has none", ""]
    some = [*lacking, result("test_one", PASSED), result("test_h", PASSED, kind=HAZARD)]
    assert lines(some)[0] == "data  1 passed, 30 not provided; hazards: 1 passed; 32.0 s: it has none"


def test_findings_with_one_cause_are_one() -> None:
    same = [result(f"test_{number}", FAILED, message="no clip arrives") for number in range(13)]
    other = result("test_other", FAILED, message="late")
    text = "\n".join(lines([*same, other]))
    assert text.count("no clip arrives") == 1
    assert text.count("  replay    ") == 2
    assert all(f"test_{number}" in text for number in range(13))


def test_what_blocks_others_comes_first_with_what_it_blocks() -> None:
    blocked = [
        Result(f"test_{number}", "data", REQUIREMENT, BLOCKED, reason="rests on it", blocked_by="test_cause")
        for number in range(9)
    ]
    told = lines([result("test_other", FAILED, message="late"), *blocked, result("test_cause", FAILED, message="no")])
    cause, other = told.index("cause: test_cause: no"), told.index("test_other: late")
    assert cause < other
    assert "  blocks    9: test_0, test_1, test_2 and 6 more" in told[cause:other]


def test_a_failure_of_several_subjects_names_them() -> None:
    told = lines([result("test_a", FAILED, message="no", subject=name) for name in ("A:chunked", "A:batched")])
    assert "  the same  test_a [A:batched]" in told


def test_hazards_that_do_not_count_are_a_line_and_those_that_do_are_findings() -> None:
    hazard = result("test_h", FAILED, kind=HAZARD, message="frames are held")
    told = lines([hazard])
    assert "failed (hazard): test_h: frames are held" in told
    assert any("--hazards fail" in line for line in told)
    counted = lines([hazard], Counts(hazards=True))
    assert "  replay    replay test_h" in counted
    assert not any("--hazards fail" in line for line in counted)


def test_what_is_inherited_is_a_line_until_it_counts() -> None:
    inherited = result("test_i", INHERITED, message="wrong", reason="inherited from sam3 9: it is so")
    assert "inherited: test_i: from sam3 9: it is so" in lines([inherited])
    assert not any("replay" in line for line in lines([inherited]))
    counted = lines([inherited], Counts(inherited=True))
    assert "  replay    replay test_i" in counted
    assert sum("it is so" in line for line in counted) == 1


def test_no_outcome_but_passing_goes_without_a_word() -> None:
    for outcome in set(OUTCOMES) - {PASSED, NOT_APPLICABLE, BLOCKED}:
        told = "\n".join(lines([result("test_x", outcome, reason="because", message="wrong")]))
        assert "because" in told, outcome
    for outcome in (MISSING, NOT_TRIGGERED, XPASSED, SKIPPED):
        told = "\n".join(lines([result("test_x", outcome, reason="because")]))
        assert f"{outcome.replace('_', ' ')}: test_x: because" in told


def test_everything_has_a_line_each_check_and_each_finding() -> None:
    passing = [result(f"test_{number}", PASSED) for number in range(5)]
    inherited = result("test_i", INHERITED, message="wrong", reason="inherited from sam3 9: it is so")
    told = lines([*passing, inherited], everything=True)
    assert sum(line.startswith("test_") and "passed" in line for line in told) == 5
    assert "  replay    replay test_i" in told
