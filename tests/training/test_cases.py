"""Cases of training, tolerances and statements: what they say, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from verify.clips.case import Training, training_from_json
from verify.statements import measured_gradients, statements
from verify.target.naming import Target
from verify.tensors.tolerance import MARGIN, distance, perturbed, rounding, tolerances


@pytest.mark.parametrize(
    "case", [Training(frames=2), Training(3, clips=2, prompts=2, boxes=1, objects=0, masks=True, segmentation=True)]
)
def test_a_case_reads_back_what_it_writes(case: Training) -> None:
    assert training_from_json(case.as_json()) == case


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "a case needs 'frames'"),
        ({"frames": 0}, "frames is 0: expected a whole number of at least 1"),
        ({"frames": True}, "frames is True: expected a whole number"),
        ({"frames": 2, "boxes": -1}, "boxes is -1: expected a whole number of at least 0"),
        ({"frames": 2, "masks": 1}, "masks is 1: expected true or false"),
        ({"frames": 2, "world_size": 2}, "unknown field 'world_size'"),
    ],
)
def test_a_case_that_cannot_be_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        training_from_json(data)


def test_perturbed_images_differ_by_one_step_everywhere() -> None:
    images = torch.rand(2, 3, 4, 4)
    moved = perturbed(images)
    assert (moved != images).all()
    assert torch.equal(perturbed(images), moved)
    back = torch.nextafter(moved, torch.where(moved > images, torch.tensor(-1.0), torch.tensor(2.0)))
    assert torch.equal(back, images)


def test_a_tolerance_is_what_the_perturbation_comes_to_and_never_less_than_rounding() -> None:
    right = {"moves": torch.tensor([1.0, 2.0]), "stays": torch.tensor([4.0]), "indices": torch.tensor([1, 2])}
    moved = {"moves": torch.tensor([1.0, 2.5]), "stays": torch.tensor([4.0]), "indices": torch.tensor([1, 2])}
    found = tolerances([(right, moved)])
    assert found == {"moves": MARGIN * 0.5, "stays": rounding(4.0), "indices": 0.0}


def test_indices_that_rounding_changes_are_not_compared() -> None:
    pairs = [({"indices": torch.tensor([1])}, {"indices": torch.tensor([value])}) for value in (1, 2)]
    assert tolerances(pairs) == {"indices": float("inf")}


def test_a_number_and_none_lie_infinitely_far_apart() -> None:
    nan = float("nan")
    assert distance(torch.tensor([nan, 1.0]), torch.tensor([nan, 1.5])) == 0.5
    assert distance(torch.tensor([1.0]), torch.tensor([nan])) == float("inf")
    assert distance(torch.tensor([float("inf")]), torch.tensor([float("inf")])) == 0.0


def test_statements_say_what_was_measured(capfd: pytest.CaptureFixture[str]) -> None:
    target = Target("posted")
    temporal, ranks, *rest = statements(target)
    assert temporal.startswith("Nothing temporal is trained: frame t's loss has zero gradient to every other frame")
    assert "the tracker is not in the model" in temporal
    assert "rank and world size come from the environment" in ranks
    assert bool(rest) != torch.cuda.is_available()
    seen = measured_gradients(target)
    assert not isinstance(seen, str)
    assert all(
        (value > 0) == (stage == frame) for stage, row in enumerate(seen.frames) for frame, value in enumerate(row)
    )
    assert seen.as_json()["case"] == {"frames": 4}
    assert capfd.readouterr().out == ""


def test_statements_of_a_target_that_mixes_frames_say_so() -> None:
    assert statements(Target("fixtures.forks.training:LeakingFeatures"))[0].startswith(
        "What is computed for a frame depends on other frames' images"
    )


def test_no_statement_is_made_of_a_target_without_a_forward_over_frames() -> None:
    assert statements(Target("sam3")) == ()
