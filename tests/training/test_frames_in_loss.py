"""What is seen of a loss: clips with as many objects a frame, boxes that are moved, gradients told apart by frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sam3.model.model_misc import SAM3Output
from torch import nn

from fixtures.ranks import Threads
from fixtures.synthetic.clips import ClipSpec, make_clip
from reference.oracle.training import CORE_LOSS
from reference.recipe.model import Sam3ImageOnVideo
from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.finding import NotCovered
from verify.target.naming import Target
from verify.tensors.tolerance import MARGIN
from verify.training.frames_in_loss import (
    FramesInLoss,
    changed,
    even_clip,
    place_of_loss,
    use_frames,
    with_moved_boxes,
)


def observe(target: Target, case: Training | None = None) -> tuple[FramesInLoss, ...]:
    ranks = Threads()
    try:
        return on_one_rank(use_frames)(ranks, target, case or Training(frames=3, seed=1))
    finally:
        ranks.close()


@pytest.mark.parametrize("empty", [None, 1])
def test_all_frames_but_an_empty_one_have_as_many_objects(empty: int | None) -> None:
    batch = even_clip(Training(frames=3, prompts=2, objects=2, masks=True, seed=5), empty)
    for frame, (stage, target) in enumerate(zip(batch.find_inputs, batch.find_targets, strict=True)):
        count = 0 if frame == empty else 2
        assert target.num_boxes.tolist() == [count, count]
        assert [len(ids) for ids in stage.object_ids] == [count, count]


def test_boxes_are_moved_in_one_frame_and_stay_inside_of_what_they_were() -> None:
    batch = make_clip(ClipSpec(frames=2, prompts=2, objects=3, seed=3))
    moved = with_moved_boxes(batch, 1)
    assert moved.find_targets[0] is batch.find_targets[0]
    before, after = batch.find_targets[1], moved.find_targets[1]
    assert (after.boxes != before.boxes).all()
    low, high = ([t.boxes[:, :2] + sign * t.boxes[:, 2:] / 2 for t in (before, after)] for sign in (-1, 1))
    assert (low[1] > low[0]).all()
    assert (high[1] < high[0]).all()
    filled = [target.boxes_padded[target.object_ids_padded >= 0] for target in (before, after)]
    assert torch.equal(filled[0], before.boxes)
    assert torch.equal(filled[1], after.boxes)
    assert not after.boxes_padded[before.object_ids_padded < 0].any()


def test_a_weight_of_the_whole_frame_is_no_change_and_another_direction_is() -> None:
    before = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([4.0])}
    weighed = {name: 3 * values for name, values in before.items()}
    turned = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0])}
    assert changed(before, weighed, before) is None
    found = changed(before, turned, before)
    assert found is not None
    assert found.tensor == "a"
    assert "became 2" in found.difference
    assert changed(before, {name: -values for name, values in before.items()}, before) is not None
    sampled = {"a": torch.tensor([1.0, -2.0 + 8 / MARGIN]), "b": torch.tensor([4.0])}
    assert changed(before, turned, sampled) is None


def test_the_loss_of_the_corrected_implementation_uses_every_frame_and_its_own_boxes() -> None:
    full, gap = observe(Target("reference", loss="reference.recipe.loss:clip_loss"))
    assert full.objects == (2, 2, 2)
    assert gap.objects == (2, 0, 2)
    assert {what: set(moved) for what, moved in full.moved.items()} == {"boxes": {0, 1, 2}}
    assert {what: set(moved) for what, moved in gap.moved.items()} == {"boxes": {0, 2}}
    for seen in (full, gap):
        assert all(moved.bears and not moved.others for moved in seen.moved["boxes"].values())
    # sam3's loss asks of a frame without objects that its presence is found to be none, and nothing of its scores.
    assert gap.gradients[1]["pred_logits"] == 0
    assert gap.gradients[1]["presence_logit_dec"] > 0


def test_masks_are_looked_at_where_they_are_trained_on() -> None:
    target = Target("reference", loss="reference.recipe.loss:clip_loss")
    for seen in observe(target, Training(frames=3, masks=True, segmentation=True, seed=1)):
        assert set(seen.moved) == {"boxes", "masks"}
        assert all(moved.bears and not moved.others for moved in seen.moved["masks"].values())


class SaysWhatIsTrained(Sam3ImageOnVideo):
    """Names frames for the loss, in another order: what it is computed on is not told by the stages."""

    def forward(self, input: Any) -> Any:
        stages = super().forward(input)
        stages.loss_stages = list(range(len(stages.output)))[::-1]
        return stages


class _OfItsOwn(nn.Module):
    def forward(self, outputs: SAM3Output, targets: Any) -> Any:
        return {CORE_LOSS: torch.ones(1, requires_grad=True).sum() if self.fails(outputs) else self.bare()}

    def fails(self, outputs: SAM3Output) -> bool:
        return outputs.output[0][-1]["pred_logits"].grad_fn.__class__.__name__ != "CloneBackward0"

    def bare(self) -> Any:
        return torch.tensor(1.0)


class _Refuses(_OfItsOwn):
    def bare(self) -> Any:
        raise ValueError("no outputs of the model")


def detached(masks: bool = False) -> nn.Module:
    return _OfItsOwn()


def refuses(masks: bool = False) -> nn.Module:
    return _Refuses()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"spec": f"{__name__}:SaysWhatIsTrained"},
            r"leaves frames out of the loss by itself: its loss_stages are \[2, ",
        ),
        ({"spec": "fixtures.forks.training:LostLastFrame"}, "2 stages came back for 3 frames"),
        ({"spec": "fixtures.forks.training:PlainList"}, "the forward returns a list"),
        ({"spec": "reference", "loss": f"{__name__}:detached"}, "is not computed from the tensors among the stages'"),
        (
            {"spec": "reference", "loss": f"{__name__}:refuses"},
            r"on copies of what the forward returns, .* no outputs of",
        ),
    ],
)
def test_what_cannot_be_told_is_said(options: dict[str, str], says: str) -> None:
    with pytest.raises(NotCovered, match=says):
        observe(Target(**options))


def test_a_finding_leads_to_the_loss() -> None:
    place = place_of_loss(Target("reference", loss=f"{__name__}:refuses"))
    assert place is not None
    assert place.what == "_OfItsOwn.forward"
