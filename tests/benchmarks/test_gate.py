"""Where the gate's time goes is told: each second once, and all of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.gate.__main__ import measure, seconds_of
from benchmarks.gate.clock import (
    BUILDING,
    COMPARING,
    CONFIGURING,
    ENDING,
    IMPORTS,
    OBSERVING,
    PARTS,
    REST,
    WAITING,
    Clock,
)
from benchmarks.gate.growth import Step, rows, steps
from benchmarks.gate.table import lines, measured
from tests.commands import Run, run

COUNTED = {
    "seconds": [["", IMPORTS, 3.0], ["schedule", OBSERVING, 4.0], ["schedule", REST, 1.0], ["", ENDING, 1.0]],
    "checks": [["test_quick", 1.0], ["test_slow", 4.0]],
    "garbage": 0.5,
    "began": 101.0,
    "ended": 110.0,
}


def test_a_second_is_counted_under_what_was_entered_last() -> None:
    seconds = iter(range(100))
    clock = Clock(IMPORTS, lambda: next(seconds))
    clock.begin(CONFIGURING)
    clock.group = "schedule"
    with clock.under(COMPARING), clock.under(OBSERVING):
        with clock.under(WAITING, stage=True):
            pass
        with clock.under(BUILDING):
            pass
    clock.begin("end")
    assert clock.seconds == {
        ("", IMPORTS): 1,
        ("", CONFIGURING): 2,
        ("schedule", COMPARING): 2,
        ("schedule", OBSERVING): 3,
        ("", WAITING): 1,
        ("schedule", BUILDING): 1,
    }


def test_a_rank_that_never_ends_is_counted_until_it_is_left() -> None:
    seconds = iter(range(100))
    clock = Clock(IMPORTS, lambda: next(seconds))
    clock.group = "ddp"
    with clock.under(OBSERVING):
        hangs = clock.under(BUILDING)
        hangs.__enter__()
    clock.begin("end")
    assert dict(clock.seconds) == {("", IMPORTS): 2, ("ddp", OBSERVING): 1, ("ddp", BUILDING): 1}


def test_what_is_built_outside_of_checks_is_of_the_stage_under_way() -> None:
    seconds = iter(range(100))
    clock = Clock(CONFIGURING, lambda: next(seconds))
    with clock.under(BUILDING):
        pass
    clock.begin("end")
    assert dict(clock.seconds) == {("", CONFIGURING): 3}


def test_the_table_tells_stages_groups_and_the_slowest_checks() -> None:
    run = measured(100.0, 110.0, 12.0, COUNTED)
    assert (run.wall, sum(run.stages.values()) + sum(run.groups["schedule"].values())) == (10.0, 10.0)
    said = "\n".join(lines(run))
    assert "| starting Python and pytest | 1.00 | 10% |" in said
    assert "| schedule | 5.00 | 50% |" in said
    assert "| schedule | 0.00 | 4.00 | 0.00 | 1.00 |" in said
    assert said.index("`test_slow` | 4.00") < said.index("`test_quick` | 1.00")


@pytest.mark.xdist_group("commands")
def test_every_second_of_a_run_is_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "seconds.json"
    done = run("benchmarks.gate", "--only", "test_coverage,test_parity_detections", "--json", str(file))
    assert done.status == 0, done.err
    told = json.loads(file.read_text())
    groups = {group: dict(parts) for group, parts in told["groups"].items()}
    assert set(groups) == {"schedule", "parity"}
    assert all(set(parts) == set(PARTS) and parts[OBSERVING] > 0 for parts in groups.values())
    assert all(seconds > 0 for seconds in told["stages"].values()), told["stages"]
    counted = sum(told["stages"].values()) + sum(sum(parts.values()) for parts in groups.values())
    assert counted == pytest.approx(told["wall"], abs=0.01)
    assert told["processor"] > 0
    names = [name for name, _ in told["checks"]]
    assert sorted(names) == [f"test_coverage[{launcher}]" for launcher in ("processes", "threads")] + [
        "test_parity_detections[processes]"
    ]
    assert "| schedule |" in done.out


@pytest.mark.xdist_group("commands")
def test_a_run_that_does_not_begin_says_why() -> None:
    with pytest.raises(SystemExit, match="--only nothing: neither a group"):
        measure("sam3", "nothing")


def test_growth_is_measured_by_one_thing_at_a_time() -> None:
    two = steps(2)
    assert {step.of for step in two} == {"checks", "cases", "ranks", "cores", "workers"}
    assert [step.cores for step in two if step.of == "cores"] == [1, 2]
    assert [step.cores for step in steps(1) if step.of == "cores"] == [1]
    said = list(rows(2, lambda step: float(len(step.arguments))))
    assert said[0].startswith("| more | of them | seconds |")
    assert len(said) == 1 + len(two)
    assert said[1] == "| checks | test_coverage | 2.0 |"


@pytest.mark.xdist_group("commands")
def test_a_step_of_growth_runs_on_as_many_cores_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[str]]] = []

    def ended(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append((len(os.sched_getaffinity(0)), command[-2:]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", ended)
    before = os.sched_getaffinity(0)
    assert seconds_of("sam3", Step("cores", "1", ("--only", "test_coverage"), 1)) >= 0
    assert seen == [(1, ["--only", "test_coverage"])]
    assert os.sched_getaffinity(0) == before


@pytest.mark.xdist_group("commands")
def test_growth_chooses_its_own_runs(run_forked: Run) -> None:
    done = run_forked("benchmarks.gate", "--growth", "--only", "schedule")
    assert done.status == 2
    assert "--growth measures runs of its own: leave out --only and --json" in done.err
