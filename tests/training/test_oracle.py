"""The one-frame oracle: what it says is sam3's own, and a loop that errs differs from it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from sam3.model.sam3_image import Sam3Image

from fixtures.posted.recipe import build_sam3_image_video_model
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import build_toy
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.weights import perturb_weights
from reference.oracle.training import CORE_LOSS, frame_by_frame, one_frame, one_frame_model
from reference.recipe.loss import clip_loss


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache
def model() -> Any:
    return perturb_weights(build_toy(build_sam3_image_video_model, eval_mode=False, enable_segmentation=True).model)


def gradients_of(stages: Any, batch: Any, loss: Any) -> dict[str, torch.Tensor | None]:
    model().zero_grad()
    loss(stages, [model().back_convert(target) for target in batch.find_targets])[CORE_LOSS].backward()
    return {name: parameter.grad for name, parameter in model().named_parameters()}


def test_of_one_frame_it_is_the_image_model_itself() -> None:
    batch = make_clip(ClipSpec(frames=1, prompts=2, masks=True))
    loss = clip_loss(masks=True, semantic=True)
    with sam3_on_cpu():
        found = frame_by_frame(model(), batch, loss)
        stages = one_frame_model(model()).forward(batch)
        gradients = gradients_of(stages, batch, loss)
    assert torch.equal(found.outputs[0][0]["pred_masks"], stages.output[0][0]["pred_masks"])
    for name, gradient in gradients.items():
        expected = found.gradients[name]
        assert (gradient is None) == (expected is None), name
        if gradient is not None and expected is not None:
            torch.testing.assert_close(gradient, expected, msg=name)


def test_losses_and_gradients_are_sums_over_frames() -> None:
    batch = make_clip(ClipSpec(frames=3, clips=2))
    loss = clip_loss()
    with sam3_on_cpu():
        whole = frame_by_frame(model(), batch, loss)
        parts = [frame_by_frame(model(), one_frame(batch, frame), loss) for frame in range(3)]
    assert len(whole.losses) == len(whole.outputs) == 3
    assert torch.equal(whole.loss, torch.stack([part.loss for part in parts]).sum())
    name = "transformer.decoder.query_embed.weight"
    expected = sum(part.gradients[name] for part in parts)  # type: ignore[misc]
    torch.testing.assert_close(whole.gradients[name], expected)


def test_it_leaves_gradients_and_mode_alone_and_keeps_no_graph() -> None:
    batch = make_clip(ClipSpec(frames=2))
    model().zero_grad()
    with sam3_on_cpu():
        found = frame_by_frame(model(), batch, clip_loss())
    assert all(parameter.grad is None for parameter in model().parameters())
    assert model().training
    assert not found.outputs[0][0]["pred_boxes"].requires_grad
    assert not found.loss.requires_grad


def test_it_does_not_pass_through_the_class_under_judgement() -> None:
    class Broken(type(model())):  # type: ignore[misc]
        def forward(self, *_: Any) -> Any:
            raise AssertionError("called")

        forward_grounding = back_convert = _run_segmentation_heads = forward

    broken = Broken.__new__(Broken)
    broken.__dict__.update(model().__dict__)
    batch = make_clip(ClipSpec(frames=2))
    assert type(one_frame_model(broken)) is Sam3Image
    with sam3_on_cpu():
        found, right = frame_by_frame(broken, batch), frame_by_frame(model(), batch)
    assert torch.equal(found.outputs[1][0]["pred_logits"], right.outputs[1][0]["pred_logits"])


def test_evaluation_gives_outputs_without_matching() -> None:
    model().eval()
    with sam3_on_cpu():
        found = frame_by_frame(model(), make_clip(ClipSpec(frames=2, targets=False)))
    model().train()
    assert "indices" not in found.outputs[0][0]
    assert found.losses == ()
    assert found.gradients == {}


def test_frames_differ_so_that_a_wrong_one_shows() -> None:
    batch = make_clip(ClipSpec(frames=3))
    with sam3_on_cpu():
        first, second, third = (outputs[0]["pred_boxes"] for outputs in frame_by_frame(model(), batch).outputs)
    assert (first - second).abs().max() > 1e-4
    assert (second - third).abs().max() > 1e-4
