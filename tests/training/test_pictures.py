"""Pictures of training: nothing is marked where the gate passes a target, and where it does not, the first place."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fixtures.ranks import RanksFailed
from fixtures.trainer import Step, Trained
from tests.judging import judge
from verify.ddp.case import DataParallel
from verify.ddp.pictures import collectives_pictures
from verify.engine.launchers import Launchers
from verify.engine.picture import Picture as Made
from verify.engine.picture import travels
from verify.engine.result import FAILED, PASSED, Result
from verify.page.charts.kinds import chart
from verify.page.reading import Picture
from verify.target.naming import Target
from verify.trainer.case import Run
from verify.trainer.observation import Both
from verify.trainer.pictures import learning_pictures, resumed_pictures

pytest_plugins = ["tests.judging"]
TRAINING, GRADIENTS = "fixtures.forks.training:", "fixtures.forks.gradients:"


def marked(pictures: tuple[Made, ...]) -> list[int]:
    """How often each picture's chart marks a first difference."""
    counts = []
    for picture in pictures:
        assert travels(picture)
        svg = chart(Picture(picture.kind, picture.title, picture.description, picture.data), "p")
        assert svg is not None, picture
        counts.append(len(re.findall(r'id="p-first-difference"', svg)))
    return counts


@pytest.mark.parametrize(
    ("target", "check", "kind", "says"),
    [
        (TRAINING + "LeakingGradient", "test_no_frame_leaks", "matrix", "have gradient in the image of frame"),
        (
            TRAINING + "GradientFromLastFrame",
            "test_every_frame_contributes",
            "matrix",
            "no gradient in their own image",
        ),
        (TRAINING + "DetachedText", "test_same_parameters_trained", "bars", r"language_backbone: \d+ of \d+ lost"),
        (TRAINING + "GradientFromLastFrame", "test_clip_gradients", "bars", r"\d+ of \d+ off"),
        (GRADIENTS + "DetachedMlps", "test_every_moving_parameter_has_a_gradient", "bars", r"\d+ of \d+ lost"),
        (GRADIENTS + "HalvedMlps", "test_gradient_is_the_derivative", "bars", r"\d+ of \d+ off"),
    ],
)
def test_the_first_difference_is_marked_and_told(
    target: str, check: str, kind: str, says: str, launchers: Launchers
) -> None:
    result = judge(target, check, launchers)
    assert result.outcome == FAILED
    assert result.pictures[0].kind == kind
    assert re.search(says, result.pictures[0].description), result.pictures[0].description
    assert marked(result.pictures)[0] == 1


@pytest.mark.parametrize(
    "check", ["test_no_frame_leaks", "test_clip_gradients", "test_every_moving_parameter_has_a_gradient"]
)
def test_nothing_is_marked_of_what_passes(check: str, launchers: Launchers) -> None:
    result: Result = judge("reference", check, launchers)
    assert result.outcome == PASSED
    assert result.pictures
    assert set(marked(result.pictures)) == {0}


def test_ranks_that_meet_the_wrong_collective_are_pictured_though_they_do_not_tell() -> None:
    case = DataParallel(2, frames=(1, 2))
    (picture,) = collectives_pictures(case, RanksFailed("rank 1 was killed"), Target("posted"))
    assert picture.data["mismatch"] == 1
    assert "The ranks did not come through it" in picture.description
    assert marked((picture,)) == [1]
    assert collectives_pictures(replace(case, frames=(2,)), (), Target("posted"))[0].data["mismatch"] is None
    assert collectives_pictures(case, (), Target("reference")) == (), "nothing is issued"


def _run(*losses: float, box: float | None = None) -> Trained:
    return Trained(tuple(Step(loss, epoch, box, ()) for epoch, loss in enumerate(losses)))


@pytest.mark.parametrize(
    ("broken", "at"),
    [
        ((4.0, 3.0, 2.0, 1.0), None),
        ((4.0, 3.0, 2.5, 1.0), 2),
        ((4.0, 3.0, float("nan"), 1.0), 2),
        ((4.0, 3.0, 2.0), 3),
        ((), 0),
    ],
)
def test_losses_of_a_resumed_run_are_beside_those_of_an_unbroken_one(broken: tuple[float, ...], at: Any) -> None:
    both = Both(_run(*broken), _run(4.0, 3.0, 2.0, 1.0))
    (picture,) = resumed_pictures(1e-3)(Run(), [Both(_run(1.0), _run(1.0)), both], Target("reference"))
    assert (picture.data["mark"] or {"at": None})["at"] == at
    assert marked((picture,)) == [0 if at is None else 1]


@pytest.mark.parametrize(("last", "marks"), [(1.0, 0), (5.0, 1), (float("nan"), 1)])
def test_what_is_learnt_is_beside_what_has_to_be(last: float, marks: int) -> None:
    steps = tuple(Step(1.0, epoch, box, ()) for epoch, box in enumerate((6.0, 4.0, 3.0, last)))
    pictures = learning_pictures(3.0)(Run(1, epochs=4), [Trained(steps)], Target("reference"))
    assert marked(pictures) == [marks]
    assert learning_pictures(3.0)(Run(1, epochs=4), [_run(1.0)], Target("reference")) == (), "no part for boxes"
