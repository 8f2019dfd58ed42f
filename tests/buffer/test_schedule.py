"""Each check of the group *schedule* fails on the bugs that it is for, for the stated reason, and says where."""

from __future__ import annotations

import re

import pytest

from fixtures.forks.batched import BUGS as BATCHED
from fixtures.forks.buffer.bugs import BUGS
from tests.judging import CHECKS, FEW, assert_as_stated, judge, seeded_finding
from verify.engine.check import HAZARD, THREADS
from verify.engine.launchers import Launchers
from verify.engine.result import FAILED, PASSED

pytest_plugins = ["tests.judging"]
OF_GROUP = {name: check for name, check in CHECKS.items() if check.group == "schedule"}
SEEDED_HERE = [bug for bug in BUGS.values() if bug.check in OF_GROUP]


def test_every_check_has_a_seeded_bug() -> None:
    assert set(OF_GROUP) <= {bug.check for bug in (*SEEDED_HERE, *BATCHED.values())}


def test_every_seeded_bug_names_a_check_and_says_what_it_is() -> None:
    for bug in BUGS.values():
        assert bug.check in CHECKS, bug.name
        assert bug.doc, bug.name


@pytest.mark.parametrize("bug", SEEDED_HERE, ids=lambda bug: bug.name)
def test_the_named_check_fails_for_the_stated_reason(bug, launchers: Launchers) -> None:  # type: ignore[no-untyped-def]
    assert_as_stated(bug, seeded_finding(bug, launchers, THREADS))


#: sam3 0.1.4 knows no limit of a scan to go on past, and no batches; it asserts that NMS has thresholds, and counts
#: pixels as whole numbers.
SAM3_IS_FREE_OF = {
    "test_resumed_scan",
    "test_rows_of_answers",
    "test_prompts_in_a_batch",
    "test_nms_without_thresholds",
    "test_nms_under_autocast",
}


@pytest.mark.parametrize(
    "check", [name for name, check in OF_GROUP.items() if check.kind == HAZARD and name not in SAM3_IS_FREE_OF]
)
def test_hazards_of_sam3_are_found(check: str, launchers: Launchers) -> None:
    assert judge("sam3", check, launchers).outcome == FAILED


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("test_features_on_request", "the answer holds tracker features that the call did not ask for"),
        ("test_without_tracker_neck", "'NoneType' object is not subscriptable"),
    ],
)
def test_requirements_that_sam3_misses_are_found(check: str, says: str, launchers: Launchers) -> None:
    finding = judge("sam3", check, launchers).finding
    assert finding is not None
    assert says in finding.message


def test_detections_of_another_rank_are_told_by_frame_and_rank(launchers: Launchers) -> None:
    finding = seeded_finding(BUGS["ReversedGather"], launchers, THREADS)
    assert finding.expected is not None
    assert finding.got is not None
    assert f"frame {finding.frame}," in finding.expected
    assert re.match(r"frame \d+, prompt 0, query 0", finding.got)
    assert finding.table[0] == ("call", "frame", "delivered", "detected", "in the buffer after")
    assert any(row[0] == f">{finding.call}" for row in finding.table)


def test_an_optional_argument_is_checked_where_a_target_declares_it(launchers: Launchers) -> None:
    finding = seeded_finding(BUGS["DropsAFlagAhead"], launchers, THREADS)
    assert finding.case["suppression"]["use_iom"] is True


def test_a_bug_of_one_check_passes_the_others(launchers: Launchers) -> None:
    for check in ("test_coverage", "test_residency", "test_nms_suppression"):
        assert judge(BUGS["NoPrefetch"].target, check, launchers, profile=FEW).outcome == PASSED
