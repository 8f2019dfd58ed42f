"""Pictures of a run of sam3's Trainer: losses along its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fixtures.trainer import Step, Trained
from verify.engine.picture import Picture
from verify.target.naming import Target
from verify.trainer.case import Run
from verify.trainer.observation import Both

#: The most values of a line.
LONGEST = 400


def shows(case: Run) -> float:
    return float(case.epochs)


def _number(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _losses(steps: Sequence[Step]) -> list[float | None]:
    return [_number(step.loss) for step in steps[:LONGEST]]


def resumed_pictures(same: float) -> Any:
    """Pictures of runs that were stopped and went on, beside unbroken ones; losses ``same`` parts apart are equal."""

    def pictures(case: Run, seen: Any, target: Target) -> tuple[Picture, ...]:
        if not isinstance(seen, list) or not all(isinstance(runs, Both) for runs in seen):
            return ()
        found = [(rank, _first_apart(runs, same)) for rank, runs in enumerate(seen)]
        rank, at = next(((rank, at) for rank, at in found if at is not None), (0, None))
        broken, unbroken = seen[rank].one.steps, seen[rank].other.steps
        ends = "The losses are the same in every step."
        if at is not None:
            ends = f"The first difference is in step {at}."
        data = {
            "across": "step",
            "up": "loss",
            "lines": [
                {"name": "never stopped", "values": _losses(unbroken)},
                {"name": "stopped and resumed", "values": _losses(broken)},
            ],
            "stop": len(unbroken) // 2,
            "mark": None if at is None else {"at": at, "line": 1, "text": "first difference"},
        }
        description = (
            f"Losses of rank {rank} in {len(broken)} steps of a run that was stopped before step {len(unbroken) // 2} "
            f"and resumed, beside the {len(unbroken)} steps of one that was not stopped. {ends}"
        )
        return (Picture("lines", "Loss, resumed beside unbroken", description, data),)

    return pictures


def _first_apart(runs: Both, same: float) -> int | None:
    """The number of the first step whose losses are not the same, or that only one of the runs has."""
    broken, unbroken = runs.one.steps, runs.other.steps
    for number, (got, expected) in enumerate(zip(broken, unbroken, strict=False)):
        if not abs(got.loss - expected.loss) <= same * abs(expected.loss):
            return number
    return None if len(broken) == len(unbroken) else min(len(broken), len(unbroken))


def learning_pictures(learned: float) -> Any:
    """Pictures of the boxes' L1 epoch by epoch, which has to fall to one part in ``learned``."""

    def pictures(case: Run, seen: Any, target: Target) -> tuple[Picture, ...]:
        if not isinstance(seen, list) or not all(isinstance(run, Trained) and run.steps for run in seen):
            return ()
        epochs = seen[0].steps[-1].epoch + 1
        per_epoch = max(1, len(seen[0].steps) // epochs)
        courses = []
        for run in seen[:3]:
            values = [step.box_l1 for step in run.steps]
            if None in values:
                return ()
            sums = [sum(values[at : at + per_epoch]) / per_epoch for at in range(0, len(values), per_epoch)]
            courses.append([_number(value) for value in sums[:LONGEST]])
        starts = [course[0] for course in courses if course[0] is not None]
        goal = _number(sum(starts) / len(starts) / learned) if starts else None
        last = courses[0][-1]
        high = goal is not None and (last is None or last > goal)
        lines = [{"name": f"has to fall to {goal}", "values": [goal] * len(courses[0])}]
        lines += [{"name": f"rank {rank}", "values": course} for rank, course in enumerate(courses)]
        data = {
            "across": "epoch",
            "up": "boxes' L1 on the frames trained on",
            "lines": lines,
            "mark": {"at": len(courses[0]) - 1, "line": 1, "text": "still too high"} if high else None,
        }
        held_out = next((run.held_out for run in seen if run.held_out is not None), None)
        others = f" On the frames held out it goes from {held_out[0]:.3g} to {held_out[1]:.3g}." if held_out else ""
        description = (
            f"The boxes' L1 in {epochs} epochs, from {courses[0][0]} to {last} on rank 0; it has to fall to "
            f"{goal}.{others}"
        )
        return (Picture("lines", "What is learnt, epoch by epoch", description, data),)

    return pictures
