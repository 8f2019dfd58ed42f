"""The posted recipe has the defects that it is kept for, and no others that would hide them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from sam3.model.geometry_encoders import Prompt

from fixtures.posted.recipe import build_sam3_image_video_model
from fixtures.ranks import Ranks, RanksFailed
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import build_toy
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.shrink import toy_width
from fixtures.toy.weights import perturb_weights
from reference.data.vocabulary import default_vocabulary
from reference.oracle.training import CORE_LOSS, frame_by_frame
from tests.ddp.steps import Training, train

pytest_plugins = ["tests.judging"]

POSTED = "fixtures.posted.recipe:build_sam3_image_video_model"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # at toy width threads wait for each other longer than they work


@lru_cache
def posted(segmentation: bool = False, eval_mode: bool = False) -> Any:
    built = build_toy(build_sam3_image_video_model, enable_segmentation=segmentation, eval_mode=eval_mode)
    perturb_weights(built.model)
    return built


def encoded(model: Any, batch: Any) -> list[int]:
    """Run the forward; give the number of images of each call of the image backbone."""
    calls = []
    hook = model.backbone.vision_backbone.trunk.register_forward_pre_hook(
        lambda _, inputs: calls.append(inputs[0].shape[0])
    )
    with sam3_on_cpu():
        model(batch)
    hook.remove()
    return calls


def undetected(model: Any, batch: Any) -> dict[str, Any]:
    """Give what a detector is given of a video whose frames are encoded on demand."""
    with torch.no_grad():
        text = model.backbone.forward_text(batch.find_text_batch, device="cpu")
    return {"img_batch_all_stages": batch.img_batch, **text}


def test_outputs_are_right_all_the_same() -> None:
    model = posted(segmentation=True).model
    batch = make_clip(ClipSpec(frames=3, prompts=2, clips=2, masks=True))
    with sam3_on_cpu(), torch.no_grad():
        right = frame_by_frame(model, batch)
        stages = model(batch)
    for got, expected in zip(stages.output, right.outputs, strict=True):
        for name in ("pred_logits", "pred_boxes", "pred_masks"):
            torch.testing.assert_close(got[0][name], expected[0][name])


def test_without_segmentation_frames_are_encoded_twice() -> None:
    batch = make_clip(ClipSpec(frames=4))
    assert encoded(posted().model, batch) == [4, 1, 1, 1]
    assert encoded(posted(segmentation=True).model, batch) == [4]


@pytest.mark.xdist_group("ddp processes")
def test_masks_without_a_mask_loss_end_training_at_the_second_step(ranks: Ranks) -> None:
    clips = (ClipSpec(frames=2, masks=True, seed=1), ClipSpec(frames=2, masks=True, seed=2))
    with pytest.raises(RanksFailed, match="Expected to have finished reduction in the prior iteration"):
        ranks.run(train, 2, Training(POSTED, clips, segmentation=True, steps=2))
    one = Training(POSTED, clips, segmentation=True, steps=1)
    assert len(ranks.run(train, 2, one)[0].value.losses) == 1


def test_parameters_are_left_uninitialised() -> None:
    names = posted().initialised_here
    assert [name.rpartition(".")[2] for name in names] == ["positional_embedding", "text_projection"]


def test_gathering_by_default_needs_a_tracker_neck_that_is_not_there() -> None:
    model = posted(segmentation=True, eval_mode=True).model
    batch = make_clip(ClipSpec(frames=2))
    stage = batch.find_inputs[0]
    prompt = Prompt(stage.input_boxes, stage.input_boxes_mask, box_labels=stage.input_boxes_label)
    given = undetected(model, batch)
    with sam3_on_cpu(), torch.no_grad(), pytest.raises(TypeError, match="'NoneType' object is not subscriptable"):
        model.forward_video_grounding_multigpu(given, batch.find_inputs, prompt, 0, 2, {})


@pytest.mark.xdist_group("ddp processes")
def test_the_loss_grows_with_the_clip(ranks: Ranks) -> None:
    def per_frame(loss: str, frames: int) -> float:
        training = Training(POSTED, (ClipSpec(frames=frames, objects=0),), loss=loss, steps=1)
        return ranks.run(train, 1, training)[0].value.losses[0] / frames

    # Without objects the presence of none is all there is to learn: frames cost about the same.
    assert per_frame("recipe_loss", 6) == pytest.approx(per_frame("recipe_loss", 1), rel=0.3)
    assert per_frame("clip_loss", 6) == pytest.approx(per_frame("recipe_loss", 6) / 6)


@pytest.mark.xdist_group("ddp processes")
def test_clips_of_different_lengths_end_in_an_abort_or_a_hang(ranks: Ranks) -> None:
    clips = (ClipSpec(frames=2, seed=1), ClipSpec(frames=3, seed=2))
    with pytest.raises(RanksFailed):
        ranks.run(train, 2, Training(POSTED, clips, loss="recipe_loss", steps=2))
    assert ranks.run(train, 2, Training(POSTED, clips, steps=2))[0].value.off_the_mean < 1e-4


def test_cpu_cannot_be_built_for_without_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with toy_width(), pytest.raises((RuntimeError, AssertionError)):
        build_sam3_image_video_model(default_vocabulary(), device="cpu", load_from_HF=False)


def test_interactive_evaluation_has_no_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    model = posted().model.eval()
    monkeypatch.setattr(model, "num_interactive_steps_val", 1)
    with sam3_on_cpu(), pytest.raises(AttributeError, match="interactive_prompt_sampler"):
        model(make_clip(ClipSpec(frames=1)))
    model.train()


def test_evaluation_has_no_loss() -> None:
    from reference.recipe.loss import clip_loss

    model = posted().model.eval()
    batch = make_clip(ClipSpec(frames=2))
    with sam3_on_cpu(), torch.no_grad(), pytest.raises(KeyError, match="indices"):
        clip_loss()(model(batch), [model.back_convert(target) for target in batch.find_targets])[CORE_LOSS]
    model.train()


def test_missing_targets_fail_far_from_their_cause() -> None:
    with sam3_on_cpu(), pytest.raises(AttributeError, match="'NoneType' object has no attribute"):
        posted().model(make_clip(ClipSpec(frames=2, targets=False)))


def test_a_frame_encoded_on_demand_is_looked_up_by_the_id_of_another() -> None:
    model = posted(segmentation=True).model
    batch = make_clip(ClipSpec(frames=2, clips=2, masks=True))
    stage = batch.find_inputs[1]
    prompt = Prompt(stage.input_boxes, stage.input_boxes_mask, box_labels=stage.input_boxes_label)
    given = undetected(model, batch)
    with sam3_on_cpu(), pytest.raises(IndexError):
        model.forward_grounding(given, stage, batch.find_targets[1], prompt)


def test_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with sam3_on_cpu():
        posted().model(make_clip(ClipSpec(frames=3)))
    assert "3 frames" in capsys.readouterr().out
