"""Variants of the buffer that are right pass every requirement: no check asks for more than was promised."""

from __future__ import annotations

import pytest

from fixtures.forks.buffer.conforming import VARIANTS
from tests.judging import CHECKS, FEW, judge
from verify.engine.check import HAZARD, PROCESSES, REQUIREMENT
from verify.engine.launchers import Launchers
from verify.engine.result import PASSED, SKIPPED

pytest_plugins = ["tests.judging"]
#: Checks of what a batched buffer promises, or of what these buffers do not answer with.
OF_BATCHES = {"test_own_prompts", "test_rows_of_answers", "test_prompts_in_a_batch", "test_object_ids"}
REQUIREMENTS = [
    name
    for name, check in CHECKS.items()
    if check.group == "schedule" and check.kind == REQUIREMENT and name not in OF_BATCHES
]
HAZARDS = [
    name
    for name, check in CHECKS.items()
    if check.group == "schedule" and check.kind == HAZARD and name not in OF_BATCHES
]
PARITY = [name for name, check in CHECKS.items() if check.group == "parity" and check.kind == REQUIREMENT]
#: Variants whose way between ranks, or whose reading of the detector's output, a real backend and detector may meet.
ON_PROCESSES = ("Coalesced", "GathersObjects", "ExchangesPairwise", "SuppressesWhenRead", "LowersToAConstant")


@pytest.mark.parametrize("name", VARIANTS)
def test_requirements_pass_on_threads(name: str, launchers: Launchers) -> None:
    target = f"{VARIANTS[name].__module__}:{name}"
    for check in REQUIREMENTS:
        result = judge(target, check, launchers, profile=FEW)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result
        assert result.cases > 0


@pytest.mark.parametrize("check", HAZARDS)
def test_a_buffer_can_be_free_of_hazards(check: str, launchers: Launchers) -> None:
    result = judge("fixtures.forks.buffer:MeetsHazards", check, launchers)
    assert result.outcome == PASSED, result.finding.render() if result.finding else result


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("name", ON_PROCESSES)
def test_parity_passes_on_processes(name: str, launchers: Launchers) -> None:
    target = f"{VARIANTS[name].__module__}:{name}"
    for check in PARITY:
        result = judge(target, check, launchers, PROCESSES, FEW)
        assert result.outcome == PASSED, result.finding.render() if result.finding else result


@pytest.mark.xdist_group("processes")
def test_a_rank_that_gathers_in_a_thread_of_its_own_is_judged_as_a_process(launchers: Launchers) -> None:
    target = "fixtures.forks.buffer:GathersInAThread"
    on_threads = judge(target, "test_coverage", launchers, profile=FEW)
    assert on_threads.outcome == SKIPPED, on_threads
    assert "threads do not cover torch.distributed in threads of a rank's own" in on_threads.reason
    assert judge(target, "test_coverage", launchers, PROCESSES, FEW).outcome == PASSED
