"""Run the corrected implementation on a checkout's sam3: ``python -m tests.recipe.on_checkout FOLDER``.

What it finds wrong it raises.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # before anything imports sam3
    sys.path.insert(0, sys.argv[1])

import logging
from typing import Any

import torch
from sam3 import model_builder as parts
from sam3.model.geometry_encoders import Prompt
from torch import nn

from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import build_toy
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.shrink import toy_width
from fixtures.toy.weights import perturb_weights
from reference.data.vocabulary import default_vocabulary
from reference.oracle.training import CORE_LOSS, frame_by_frame
from reference.recipe.builder import build_sam3_image_video_model
from reference.recipe.initialise import initialise
from reference.recipe.loss import clip_loss
from reference.recipe.model import Sam3ImageOnVideo

Gradients = dict[str, torch.Tensor | None]

#: How far gradients of a clip may be from the sum over its frames, in parts of the largest: sums in another order.
TOLERANCE = 1e-4
#: The same under bfloat16, whose rounding step is 2 ** -8, from those in single precision.
ROUNDED = 0.2


def built(tracker: bool = False) -> Any:
    settings = {"eval_mode": False, "enable_segmentation": True, "enable_inst_interactivity": tracker}
    return perturb_weights(build_toy(build_sam3_image_video_model, **settings).model)


def gradients(model: Any, batch: Any) -> Gradients:
    model.zero_grad()
    with sam3_on_cpu():
        targets = [model.back_convert(target) for target in batch.find_targets]
        clip_loss(masks=True)(model(batch), targets)[CORE_LOSS].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def off(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


def same(got: Gradients, expected: Gradients, tolerance: float, what: str) -> None:
    for name, right in expected.items():
        found = got[name]
        assert (found is None) == (right is None), (what, name)
        if found is not None and right is not None:
            assert off(found, right) < tolerance, (what, name, off(found, right))


def check_training(model: Any) -> None:
    """Train on a clip: every parameter as by the frames alone, and as with plain MLPs; checkpointed, in bfloat16."""
    batch = make_clip(ClipSpec(frames=2, prompts=2, clips=2, boxes=1, masks=True))
    loss = clip_loss(masks=True)
    found = gradients(model, batch)
    with sam3_on_cpu():
        alone = frame_by_frame(model, batch, loss).gradients
    same(found, {name: None if right is None else right / 2 for name, right in alone.items()}, TOLERANCE, "alone")
    trunk = [name for name in found if ".trunk.blocks." in name]
    assert trunk
    assert all(found[name] is not None and bool(found[name].any()) for name in trunk)
    vit = model.backbone.vision_backbone.trunk
    was = vit.use_act_checkpoint
    vit.use_act_checkpoint = not was
    same(gradients(model, batch), found, TOLERANCE, "checkpointed")
    vit.use_act_checkpoint = was
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(model, batch)
    same({name: rounded[name] for name in trunk}, {name: found[name] for name in trunk}, ROUNDED, "bfloat16")


def check_mlps(model: Any) -> None:
    """Compare the ViT's MLPs with plain autograd, value by value."""
    for block in model.backbone.vision_backbone.trunk.blocks:
        mlp = block.mlp
        rows = torch.randn(2, 3, mlp.fc1.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
        results = []
        for out in (mlp(rows), mlp.fc2(nn.GELU()(mlp.fc1(rows)))):
            results.append([out, *torch.autograd.grad(out.square().sum(), [rows, *mlp.parameters()])])
        assert all(map(torch.equal, *results))


def check_inference(model: Any) -> None:
    """Detect in single precision and under autocast, and ask the buffer for all that callers ask for."""
    batch = make_clip(ClipSpec(frames=2))
    prompt = Prompt(
        box_embeddings=torch.zeros(0, 1, 4),
        box_mask=torch.zeros(1, 0, dtype=torch.bool),
        box_labels=torch.ones(0, 1, dtype=torch.long),
    )
    options: dict[str, Any] = {
        "run_nms": True,
        "nms_prob_thresh": 0.0,
        "nms_iou_thresh": 0.5,
        "nms_use_iom": True,
        "max_frame_num_to_track": 1,
        "propagate_in_video_start_frame_idx": 0,
        "feature_cache": {},
        "return_sam2_backbone_feats": True,
    }
    logits = []
    for precise in (True, False):
        with torch.no_grad(), sam3_on_cpu(), torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            given = {"img_batch_all_stages": batch.img_batch, **model.backbone.forward_text(["thing"], device="cpu")}
            out, _ = model.forward_video_grounding_multigpu(given, batch.find_inputs, prompt, 0, 2, {}, **options)
            plain = model(batch).output[0][0]["pred_logits"]
        assert {f"tracker_backbone_fpn_{level}" for level in range(3)} <= out.keys()
        assert all(value.dtype is torch.bfloat16 for name, value in out.items() if "fpn" in name)
        logits.append(plain.float())
    assert logits[0].isfinite().all()
    assert (logits[0] - logits[1]).abs().max() < 1


def tri_neck() -> Any:
    """Make the detector around SAM 3.1's neck of three, or None where the package has none."""
    if not hasattr(parts, "SAM3VLBackboneTri"):
        return None
    torch.manual_seed(0)
    with sam3_on_cpu(), toy_width():
        model = Sam3ImageOnVideo(
            backbone=parts.SAM3VLBackboneTri(
                scalp=0,
                visual=parts._create_multiplex_tri_backbone(),
                text=parts._create_text_encoder(default_vocabulary()),
            ),
            transformer=parts._create_sam3_transformer(),
            input_geometry_encoder=parts._create_geometry_encoder(),
            segmentation_head=parts._create_segmentation_head(),
            num_feature_levels=1,
            o2m_mask_predict=True,
            dot_prod_scoring=parts._create_dot_product_scoring(),
            use_instance_query=False,
            multimask_output=True,
        )
    initialise(model)
    return perturb_weights(model)


def main() -> None:
    assert Path(parts.__file__).is_relative_to(Path(sys.argv[1]).resolve()), parts.__file__
    logging.disable()
    torch.set_num_threads(1)
    model = built()
    check_mlps(model)
    check_training(model)
    for with_neck in (built(tracker=True), tri_neck()):
        if with_neck is not None:
            check_inference(with_neck.eval())


if __name__ == "__main__":
    main()
