"""The report: the verdict of every mixture of outcomes, and the schema that the file keeps to."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from verify.engine.check import HAZARD, Check
from verify.engine.finding import Finding
from verify.engine.report import CONFORMS, INCOMPLETE, VIOLATES, Report, conclude, environment, summary, write
from verify.engine.result import (
    FAILED,
    MISSING,
    NOT_PROVIDED,
    NOT_TRIGGERED,
    PASSED,
    SKIPPED,
    XFAILED,
    XPASSED,
    Result,
    merged,
    result_from_json,
)
from verify.groups import registered

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
CHECKS = {name: registered()[name] for name in ("test_coverage", "test_prefetch", "test_any_order_residency")}
PARTS = dict.fromkeys(CHECKS, 1)


def results(**outcomes: str) -> list[Result]:
    return [part(CHECKS[name], outcomes.get(name, PASSED)) for name in CHECKS]


def part(check: Check, outcome: str, cases: int = 5, **more: object) -> Result:
    return Result(check.name, check.group, check.kind, outcome, cases, 0.5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcomes", "verdict", "because"),
    [
        ({}, CONFORMS, "2 checks passed"),
        ({"test_coverage": FAILED}, VIOLATES, "1 failed"),
        ({"test_coverage": XFAILED}, CONFORMS, "1 checks passed, 1 known failure"),
        ({"test_coverage": XPASSED}, VIOLATES, "1 passed though listed as known to fail"),
        ({"test_coverage": NOT_TRIGGERED}, VIOLATES, "1 had nothing to compare"),
        ({"test_coverage": NOT_PROVIDED}, INCOMPLETE, "nothing violated, but 1 of 2 checks could not be made"),
        ({"test_coverage": SKIPPED}, INCOMPLETE, "nothing violated, but 1 of 2 checks could not be made"),
        ({"test_coverage": FAILED, "test_prefetch": SKIPPED}, VIOLATES, "1 failed"),
        ({"test_any_order_residency": FAILED}, CONFORMS, "2 checks passed"),
    ],
)
def test_verdict(outcomes: dict[str, str], verdict: str, because: str) -> None:
    _, given, reason = conclude(CHECKS, results(**outcomes), hazards_fail=False, expected_parts=PARTS)
    assert (given, reason) == (verdict, because)


def test_hazards_count_where_asked_for() -> None:
    assert CHECKS["test_any_order_residency"].kind == HAZARD
    parts = results(test_any_order_residency=FAILED)
    assert conclude(CHECKS, parts, hazards_fail=True, expected_parts=PARTS)[1] == VIOLATES


def test_a_check_without_all_its_parts_is_missing() -> None:
    parts = results()
    concluded, verdict, _ = conclude(CHECKS, parts, False, {**PARTS, "test_coverage": 2})
    assert [result.outcome for result in concluded] == [MISSING, PASSED, PASSED]
    assert verdict == INCOMPLETE
    assert not Report({"spec": "sam3"}, {}, concluded, verdict, "").passes


def test_a_stale_entry_counts_as_passing_unexpectedly() -> None:
    concluded, verdict, _ = conclude(CHECKS, results(), False, PARTS, known={"test_coverage"})
    assert concluded[0].outcome == XPASSED
    assert verdict == VIOLATES


def test_the_worst_part_decides_and_an_inapplicable_one_does_not() -> None:
    check = CHECKS["test_coverage"]
    assert merged([part(check, PASSED), part(check, FAILED, reason="why")]).reason == "why"
    assert merged([part(check, PASSED), part(check, SKIPPED)]).outcome == SKIPPED
    assert merged([part(check, PASSED), part(check, SKIPPED, applicable=False)]).outcome == PASSED
    assert merged([part(check, SKIPPED, applicable=False)]).outcome == SKIPPED
    assert merged([part(check, PASSED), part(check, PASSED)]).cases == 10


def test_keeps_to_the_schema_and_survives_the_way_between_processes(tmp_path: Path) -> None:
    finding = Finding(
        "test_coverage", "sam3", "gloo", "wrong", "python …", world_size=2, rank=1, table=(("a", "b"), ("1", "2"))
    )
    parts = results(test_prefetch=XFAILED)
    parts[0] = part(CHECKS["test_coverage"], FAILED, finding=finding)
    assert result_from_json(json.loads(json.dumps(parts[0].as_json()))) == parts[0]
    concluded, verdict, because = conclude(CHECKS, parts, False, PARTS)
    target = {"spec": "sam3", "builder": None, "origin": "/sam3.py"}
    where = environment("gloo", None, "quick", 0)
    report = Report(target, where, concluded, verdict, because, ("note",), ("fact",))
    path = tmp_path / "report.json"
    write(report, path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert "verdict: sam3 violates: 1 failed" in summary(report, hazards_fail=False)


def test_a_finding_stands_alone() -> None:
    text = Finding(
        check="test_coverage",
        target="sam3",
        launcher="gloo",
        message="the answer for frame 3 is not that frame's own detection",
        replay="python -m pytest verify --case …",
        world_size=4,
        rank=2,
        call=3,
        frame=3,
        tensor="pred_logits",
        expected="frame 3",
        got="frame 0",
        case={"frames": 8, "world_size": 4},
    ).render()
    for said in ("world size 4, rank 2, call 3, frame 3, tensor pred_logits", "expected  frame 3", "got       frame 0"):
        assert said in text
    assert text.splitlines()[-1] == "  replay    python -m pytest verify --case …"
