"""Each check of the group *parity* fails on bugs that only the real detector shows."""

from __future__ import annotations

import re

import pytest

from fixtures.forks.buffer.bugs import BUGS
from tests.judging import CHECKS, FEW, judge, seeded_finding
from verify.engine.check import PROCESSES, THREADS
from verify.engine.launchers import Launchers
from verify.engine.result import PASSED

pytest_plugins = ["tests.judging"]
OF_GROUP = [name for name, check in CHECKS.items() if check.group == "parity"]
SEEDED_HERE = [bug for bug in BUGS.values() if bug.check in OF_GROUP]


def test_every_check_has_a_seeded_bug() -> None:
    assert set(OF_GROUP) == {bug.check for bug in SEEDED_HERE}


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("bug", SEEDED_HERE, ids=lambda bug: bug.name)
def test_the_named_check_fails_for_the_stated_reason(bug, launchers: Launchers) -> None:  # type: ignore[no-untyped-def]
    finding = seeded_finding(bug, launchers, PROCESSES)
    assert re.search(bug.says, finding.message), finding.render()
    assert None not in (finding.rank, finding.call, finding.frame, finding.tensor), finding.render()
    assert f"--target {bug.target} --only {bug.check} --launcher processes --case '" in finding.render()


#: The scripted detector reads which text a row is for, and which image, too.
SCRIPTED_AS_WELL = {"FirstTextForAll", "ImageOfTheChunk"}


@pytest.mark.parametrize(
    "bug",
    [bug.name for bug in SEEDED_HERE if bug.check == "test_parity_detections" and bug.name not in SCRIPTED_AS_WELL],
)
def test_the_scripted_detector_does_not_show_these(bug: str, launchers: Launchers) -> None:
    assert judge(BUGS[bug].target, "test_coverage", launchers, THREADS, FEW).outcome == PASSED
