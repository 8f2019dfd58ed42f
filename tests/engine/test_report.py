"""The report: the verdict of every mixture of outcomes, and the schema that the file keeps to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from verify.engine.check import HAZARD, Check
from verify.engine.finding import Finding
from verify.engine.report import (
    CONFORMS,
    INCOMPLETE,
    VIOLATES,
    Cause,
    Counts,
    Planned,
    Report,
    conclude,
    environment,
    write,
)
from verify.engine.result import (
    BLOCKED,
    FAILED,
    INHERITED,
    MISSING,
    NOT_APPLICABLE,
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
from verify.engine.summary import summary
from verify.groups import registered

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
CHECKS = {name: registered()[name] for name in ("test_coverage", "test_prefetch", "test_any_order_residency")}
PLANNED = [Planned(check, "", 1) for check in CHECKS.values()]
FROM_UPSTREAM = "inherited from sam3 9.9: it is so"


def results(**outcomes: str) -> list[Result]:
    reasons = {INHERITED: FROM_UPSTREAM, BLOCKED: "rests on test_prefetch, which fails: no clip"}
    blocked_by = {BLOCKED: "test_prefetch"}
    return [
        part(CHECKS[name], outcome, reason=reasons.get(outcome, ""), blocked_by=blocked_by.get(outcome, ""))
        for name in CHECKS
        for outcome in (outcomes.get(name, PASSED),)
    ]


def part(check: Check, outcome: str, cases: int = 5, **more: object) -> Result:
    return Result(check.name, check.group, check.kind, outcome, cases, 0.5, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcomes", "verdict", "because"),
    [
        ({}, CONFORMS, "2 checks passed"),
        ({"test_coverage": FAILED}, VIOLATES, "1 failed"),
        ({"test_coverage": XFAILED}, CONFORMS, "1 check passed, 1 known failure"),
        ({"test_coverage": XPASSED}, VIOLATES, "1 passed though listed as known to fail"),
        ({"test_coverage": NOT_TRIGGERED}, VIOLATES, "1 had nothing to compare"),
        ({"test_coverage": NOT_PROVIDED}, INCOMPLETE, "nothing violated, but 1 of 2 checks could not be made"),
        ({"test_coverage": SKIPPED}, INCOMPLETE, "nothing violated, but 1 of 2 checks could not be made"),
        ({"test_coverage": FAILED, "test_prefetch": SKIPPED}, VIOLATES, "1 failed"),
        ({"test_any_order_residency": FAILED}, CONFORMS, "2 checks passed"),
        ({"test_coverage": NOT_APPLICABLE}, CONFORMS, "1 check passed"),
        (
            {"test_coverage": NOT_APPLICABLE, "test_prefetch": NOT_APPLICABLE},
            INCOMPLETE,
            "nothing was required: none of 2 checks applies",
        ),
        ({"test_coverage": INHERITED}, CONFORMS, "1 check passed but for 1 defect inherited from sam3 9.9"),
        (
            {"test_coverage": INHERITED, "test_prefetch": SKIPPED},
            INCOMPLETE,
            "nothing violated but for 1 defect inherited from sam3 9.9, but 1 of 2 checks could not be made",
        ),
        ({"test_coverage": BLOCKED, "test_prefetch": FAILED}, VIOLATES, "1 failed, 1 blocked by what fails"),
        (
            {"test_coverage": BLOCKED, "test_prefetch": XFAILED},
            INCOMPLETE,
            "nothing violated, but 1 of 2 checks could not be made",
        ),
    ],
)
def test_verdict(outcomes: dict[str, str], verdict: str, because: str) -> None:
    _, given, reason = conclude(PLANNED, results(**outcomes), Counts())
    assert (given, reason) == (verdict, because)


def test_hazards_alone_do_not_conform() -> None:
    hazard = "test_any_order_residency"
    for outcome in (PASSED, FAILED):
        parts = [part(CHECKS[hazard], outcome)]
        _, verdict, because = conclude([Planned(CHECKS[hazard], "", 1)], parts, Counts())
        assert (verdict, because) == (INCOMPLETE, "nothing was required: hazards alone were looked for")


def test_hazards_count_where_asked_for() -> None:
    assert CHECKS["test_any_order_residency"].kind == HAZARD
    parts = results(test_any_order_residency=FAILED)
    assert conclude(PLANNED, parts, Counts(hazards=True))[1] == VIOLATES


def test_what_is_inherited_counts_where_asked_for() -> None:
    parts = results(test_coverage=INHERITED)
    _, verdict, because = conclude(PLANNED, parts, Counts(inherited=True))
    assert (verdict, because) == (VIOLATES, "1 failed as upstream's own code does")


@pytest.mark.parametrize(
    ("outcome", "says"), [(NOT_PROVIDED, "1 required and not provided"), (SKIPPED, "1 required and skipped")]
)
def test_what_is_required_and_could_not_be_made_violates(outcome: str, says: str) -> None:
    parts = [replace(each, reason="it has none") for each in results(test_coverage=outcome)]
    counts = Counts(required=("test_coverage", "test_prefetch"))
    concluded, verdict, because = conclude(PLANNED, parts, counts)
    assert (verdict, because) == (VIOLATES, says)
    report = Report({"spec": "sam3"}, {}, concluded, verdict, because)
    assert f"required, and {outcome.replace('_', ' ')}: test_coverage: it has none" in summary(report, counts)
    assert conclude(PLANNED, parts, Counts(required=("test_prefetch",)))[1] == INCOMPLETE
    assert conclude(PLANNED, results(), counts)[1] == CONFORMS
    does_not_apply = results(test_coverage=NOT_APPLICABLE)
    assert conclude(PLANNED, does_not_apply, counts)[1] == CONFORMS


def test_a_hazard_that_is_required_and_not_provided_violates() -> None:
    counts = Counts(required=("test_any_order_residency",))
    assert conclude(PLANNED, results(test_any_order_residency=NOT_PROVIDED), counts)[1] == VIOLATES


def test_a_check_that_is_blocked_by_one_that_was_not_made_violates() -> None:
    parts = results(test_coverage=BLOCKED)[:1]
    _, verdict, because = conclude(PLANNED[:1], parts, Counts())
    assert (verdict, because) == (VIOLATES, "1 blocked by what fails")


def test_causes_come_with_what_they_block() -> None:
    concluded, verdict, because = conclude(PLANNED, results(test_coverage=BLOCKED, test_prefetch=FAILED), Counts())
    report = Report({"spec": "sam3"}, {}, concluded, verdict, because)
    assert report.causes == (Cause("test_prefetch", "no clip", ("test_coverage",)),)
    lines = summary(report, Counts())
    assert "cause: test_prefetch: no clip" in lines
    assert "  blocks    1: test_coverage" in lines


def test_each_subject_has_a_result_of_its_own() -> None:
    check = CHECKS["test_coverage"]
    planned = [Planned(check, subject, 1) for subject in ("A:chunked", "A:batched")]
    parts = [part(check, FAILED, subject="A:batched"), part(check, PASSED, subject="A:chunked")]
    concluded, verdict, _ = conclude(planned, parts, Counts())
    assert [(result.subject, result.outcome) for result in concluded] == [("A:chunked", PASSED), ("A:batched", FAILED)]
    assert verdict == VIOLATES
    assert any(
        "test_coverage [A:batched]  failed" in line
        for line in summary(Report({"spec": "x"}, {}, concluded, verdict, ""), Counts(), everything=True)
    )


def test_a_check_without_all_its_parts_is_missing() -> None:
    parts = results()
    concluded, verdict, _ = conclude([Planned(CHECKS["test_coverage"], "", 2), *PLANNED[1:]], parts, Counts())
    assert [result.outcome for result in concluded] == [MISSING, PASSED, PASSED]
    assert verdict == INCOMPLETE
    assert not Report({"spec": "sam3"}, {}, concluded, verdict, "").passes


def test_a_stale_entry_counts_as_passing_unexpectedly() -> None:
    planned = [Planned(CHECKS["test_coverage"], "", 1, known=True), *PLANNED[1:]]
    concluded, verdict, _ = conclude(planned, results(), Counts())
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
    concluded, verdict, because = conclude(PLANNED, parts, Counts())
    target = {
        "spec": "sam3",
        "builder": None,
        "origin": "/sam3.py",
        "sam3": {"version": "0.1.4", "commit": None, "folder": "/sam3"},
        "subjects": ["A:chunked"],
    }
    where = environment("gloo", None, "quick", 0)
    report = Report(target, where, concluded, verdict, because, ("note",), ("fact",))
    path = tmp_path / "report.json"
    write(report, path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert "verdict: sam3 violates: 1 failed" in summary(report, Counts())


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
