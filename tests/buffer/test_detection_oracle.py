"""The mask NMS against torchvision's and by brute force; detection against the image model on each frame alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain, combinations
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import assemble, build_toy
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle.detection import (
    Suppression,
    detect_clip,
    detect_frame,
    encode_text,
    kept_detections,
    lower,
    mask_nms,
    overlap,
    suppressed,
)
from reference.oracle.training import one_frame

SIDE = 8  # height and width of drawn masks, in pixels


def _drawn(*rectangles: tuple[int, int, int, int]) -> Tensor:
    """Give ``[N, SIDE, SIDE]`` mask logits of rectangles ``(left, top, right, bottom)``, the latter two outside."""
    masks = torch.full((len(rectangles), SIDE, SIDE), -0.5)
    for mask, (left, top, right, bottom) in zip(masks, rectangles, strict=True):
        mask[top:bottom, left:right] = 0.5
    return masks


def _row(*spans: tuple[int, int]) -> Tensor:
    """Give ``[N, 1, 20]`` mask logits, each one span of a row of 20 pixels, the end outside."""
    masks = torch.full((len(spans), 1, 20), -1.0)
    for mask, (begin, end) in zip(masks, spans, strict=True):
        mask[:, begin:end] = 1.0
    return masks


def _kept(probabilities: list[float], masks: Tensor, *arguments: Any, **named: Any) -> list[bool]:
    return mask_nms(torch.tensor(probabilities), masks, *arguments, **named).tolist()


# --- the overlap -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "iou", "iom"),
    [
        pytest.param((0, 10), (0, 10), 1.0, 1.0, id="equal"),
        pytest.param((0, 10), (5, 15), 5 / 15, 5 / 10, id="shifted"),
        pytest.param((0, 10), (2, 6), 4 / 10, 1.0, id="within"),
        pytest.param((0, 10), (10, 20), 0.0, 0.0, id="touching"),
        pytest.param((0, 10), (4, 4), 0.0, 0.0, id="one empty"),
        pytest.param((3, 3), (4, 4), 0.0, 0.0, id="both empty"),
    ],
)
def test_overlap_counts_pixels(first: tuple[int, int], second: tuple[int, int], iou: float, iom: float) -> None:
    one, other = _row(first, second) > 0
    assert overlap(one, other) == overlap(other, one) == iou
    assert overlap(one, other, use_iom=True) == overlap(other, one, use_iom=True) == iom


# --- NMS by example --------------------------------------------------------------------------------------------------


def test_the_better_of_two_stays() -> None:
    assert _kept([0.6, 0.9], _row((0, 10), (1, 10)), 0.5, 0.5) == [False, True]


def test_what_is_removed_removes_nothing() -> None:
    """The second overlaps the first and the third the second: the third stays, as the second is gone."""
    assert _kept([0.9, 0.8, 0.7], _row((0, 8), (4, 12), (8, 16)), 0.5, 0.2) == [True, False, True]


def test_candidates_are_strictly_above_the_probability_threshold() -> None:
    apart = _row((0, 3), (4, 7), (8, 11))
    just_above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    assert _kept([0.5, just_above, 0.4], apart, 0.5, 0.5) == [False, True, False]


def test_probabilities_are_compared_in_their_own_precision() -> None:
    """0.1 has no exact value: in single precision it is not above 0.1."""
    assert _kept([0.1], _row((0, 3)), 0.1, 0.5) == [False]


def test_what_is_below_the_probability_threshold_removes_nothing() -> None:
    assert _kept([0.4, 0.3], _row((0, 10), (0, 10)), 0.35, 0.5) == [True, False]
    assert _kept([0.9, 0.3], _row((0, 10), (12, 20)), 0.35, 0.5) == [True, False]


@pytest.mark.parametrize(("use_iom", "at"), [(False, 0.2), (True, 0.4)])
def test_an_overlap_equal_to_the_threshold_is_kept(use_iom: bool, at: float) -> None:
    """Two pixels are shared: of ten in the union, and of the smaller mask's five."""
    masks = _row((0, 10), (8, 13)) if use_iom else _row((0, 6), (4, 10))
    assert _kept([0.9, 0.8], masks, 0.5, at, use_iom=use_iom) == [True, True]
    assert _kept([0.9, 0.8], masks, 0.5, at - 1e-6, use_iom=use_iom) == [True, False]


def test_union_and_smaller_mask_tell_a_part_from_a_whole() -> None:
    part_of_whole = _row((0, 20), (5, 9))
    assert _kept([0.9, 0.8], part_of_whole, 0.5, 0.5) == [True, True]
    assert _kept([0.9, 0.8], part_of_whole, 0.5, 0.5, use_iom=True) == [True, False]


def test_empty_masks_overlap_nothing() -> None:
    masks = _row((0, 0), (0, 0), (0, 10))
    assert _kept([0.9, 0.8, 0.7], masks, 0.5, 0.0) == [True, True, True]
    assert _kept([0.9, 0.8, 0.7], masks, 0.5, 0.0, use_iom=True) == [True, True, True]


def test_none_above_the_threshold_and_none_at_all() -> None:
    assert _kept([0.2, 0.1], _row((0, 5), (0, 5)), 0.5, 0.5) == [False, False]
    none = mask_nms(torch.zeros(0), torch.zeros(0, 4, 4), 0.5, 0.5)
    assert none.shape == (0,)
    assert none.dtype == torch.bool


def test_of_equals_the_lower_index_comes_first() -> None:
    assert _kept([0.7, 0.7, 0.7], _row((0, 10), (0, 10), (12, 15)), 0.5, 0.5) == [True, False, True]


def test_a_logit_of_zero_is_outside() -> None:
    masks = _row((0, 10), (0, 10))
    masks[1] = 0.0
    assert _kept([0.9, 0.8], masks, 0.5, 0.1) == [True, True]


@pytest.mark.parametrize(
    ("probabilities", "masks"),
    [((3,), (2, 4, 4)), ((3, 1), (3, 4, 4)), ((3,), (3, 1, 4, 4))],
)
def test_nms_says_which_shapes_it_takes(probabilities: tuple[int, ...], masks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"probabilities \[N\] and masks \[N, H, W\], not \[3"):
        mask_nms(torch.zeros(probabilities), torch.zeros(masks), 0.5, 0.5)


# --- NMS against others ----------------------------------------------------------------------------------------------


@st.composite
def _rectangles(draw: st.DrawFn, empty: bool) -> list[tuple[int, int, int, int]]:
    def span() -> tuple[int, int]:
        begin = draw(st.integers(0, SIDE - 1))
        return begin, draw(st.integers(begin if empty else begin + 1, SIDE))

    found = []
    for _ in range(draw(st.integers(0, 7))):
        (left, right), (top, bottom) = span(), span()
        found.append((left, top, right, bottom))
    return found


THRESHOLDS = st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0])


@given(st.data(), THRESHOLDS, st.sampled_from([0.0, 0.3, 0.6]))
def test_rectangles_as_in_torchvision(data: st.DataObject, iou: float, probability: float) -> None:
    """A rectangle of whole pixels has its box's area when right and bottom are the first pixels outside."""
    boxes = data.draw(_rectangles(empty=False))
    # Distinct scores, as torchvision leaves the order of equals open. Double precision, as it compares a single
    # precision overlap with a double precision threshold: at equality that removes 1/5 and keeps 1/2.
    scores = torch.tensor(data.draw(st.permutations([0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9]))[: len(boxes)]).double()
    valid = (scores > probability).nonzero().flatten()
    theirs = valid[torchvision.ops.nms(torch.tensor(boxes).double().view(-1, 4)[valid], scores[valid], iou)]
    ours = mask_nms(scores, _drawn(*boxes), probability, iou)
    assert ours.nonzero().flatten().tolist() == sorted(theirs.tolist())


def _brute_force(
    probabilities: list[float], inside: list[set[int]], probability: float, iou: float, use_iom: bool
) -> list[bool]:
    """Search all subsets for the one in which a candidate is exactly if no better member overlaps it too much."""

    def too_close(first: set[int], second: set[int]) -> bool:
        whole = min(len(first), len(second)) if use_iom else len(first | second)
        return whole > 0 and len(first & second) / whole > iou

    def better(first: int, second: int) -> bool:
        return (probabilities[first], -first) > (probabilities[second], -second)

    candidates = [index for index, value in enumerate(probabilities) if value > probability]
    subsets = chain.from_iterable(combinations(candidates, size) for size in range(len(candidates) + 1))
    solutions = [
        subset
        for subset in subsets
        if all(
            (index in subset)
            != any(better(other, index) and too_close(inside[other], inside[index]) for other in subset)
            for index in candidates
        )
    ]
    assert len(solutions) == 1
    return [index in solutions[0] for index in range(len(probabilities))]


@given(st.data(), THRESHOLDS, st.sampled_from([0.0, 0.25, 0.5]), st.booleans())
def test_the_kept_set_by_brute_force(data: st.DataObject, iou: float, probability: float, use_iom: bool) -> None:
    """Any masks, empty and equal ones too; probabilities that are exact in single precision, equal ones too."""
    count = data.draw(st.integers(0, 7))
    patterns = data.draw(st.lists(st.integers(0, 2**9 - 1), min_size=count, max_size=count))
    probabilities = data.draw(st.lists(st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]), min_size=count, max_size=count))
    inside = [{bit for bit in range(9) if pattern >> bit & 1} for pattern in patterns]
    masks = torch.full((count, 9), -1.0)
    for mask, pixels in zip(masks, inside, strict=True):
        mask[list(pixels)] = 1.0
    ours = mask_nms(torch.tensor(probabilities), masks.view(count, 3, 3), probability, iou, use_iom)
    assert ours.tolist() == _brute_force(probabilities, inside, probability, iou, use_iom)


# --- lowering --------------------------------------------------------------------------------------------------------


def test_lowering_leaves_kept_logits_bit_for_bit() -> None:
    logits = torch.tensor([[[0.1], [-0.0], [3e-39]], [[2.0], [5.0], [-7.0]]])
    kept = torch.tensor([[True, True, True], [True, False, False]])
    before = logits.clone()
    lowered = lower(logits, kept)
    assert torch.equal(lowered.view(torch.int32)[kept], logits.view(torch.int32)[kept])
    assert lowered[1, 1:].flatten().tolist() == [5.0 - 1e4, -7.0 - 1e4]
    assert torch.equal(logits, before)


def test_each_prompt_is_suppressed_by_itself() -> None:
    """Both prompts have the same masks: were they mixed, the second prompt's would be removed by the first's."""
    masks = torch.stack([_row((0, 10), (1, 10)), _row((0, 10), (1, 10))])
    logits = torch.tensor([[[2.0], [1.0]], [[0.5], [1.5]]])
    kept = kept_detections(logits, masks, Suppression(probability=0.5, iou=0.5))
    assert kept.tolist() == [[True, False], [False, True]]


def test_each_prompt_has_its_own_masks() -> None:
    masks = torch.stack([_row((0, 10), (1, 10)), _row((0, 10), (10, 20))])
    logits = torch.tensor([[[2.0], [1.0]], [[2.0], [1.0]]])
    assert kept_detections(logits, masks, Suppression(0.5, 0.5)).tolist() == [[True, False], [True, True]]


def test_the_probability_is_the_logits_sigmoid() -> None:
    masks = _row((0, 5), (10, 15))[None]
    logits = torch.tensor([[[0.5], [0.7]]])  # sigmoids 0.62 and 0.67
    assert kept_detections(logits, masks, Suppression(probability=0.65, iou=0.5)).tolist() == [[False, True]]


def test_suppression_by_the_smaller_mask_is_passed_on() -> None:
    masks = _row((0, 20), (5, 9))[None]
    logits = torch.tensor([[[2.0], [1.0]]])
    assert kept_detections(logits, masks, Suppression(0.5, 0.5)).tolist() == [[True, True]]
    assert kept_detections(logits, masks, Suppression(0.5, 0.5, use_iom=True)).tolist() == [[True, False]]


def test_suppression_without_masks_says_why_not() -> None:
    with pytest.raises(ValueError, match="no segmentation head"):
        suppressed({"pred_logits": torch.zeros(1, 2, 1)}, Suppression(0.5, 0.5))


# --- detection with the real detector at toy width -------------------------------------------------------------------

SPEC = ClipSpec(frames=3, prompts=2, seed=1)
SUPPRESSION = Suppression(probability=0.5, iou=0.3)
DETECTIONS = {"pred_logits", "pred_boxes", "pred_boxes_xyxy"}
TRACKER = {f"tracker_{kind}_{level}" for kind in ("fpn", "pos_enc") for level in range(3)}


@cache
def _toy(segmentation: bool = True, tracker: bool = True) -> nn.Module:
    from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

    arguments = {"enable_segmentation": segmentation, "enable_inst_interactivity": tracker}
    model = build_toy(assemble(Sam3ImageOnVideoMultiGPU), **arguments).model
    # What starts at zero (the box heads' last layers) would hide which frame an answer is from.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return model


def _prompts_of(batch: Any) -> Callable[[int], Any]:
    from sam3.model.geometry_encoders import Prompt

    def prompt(frame: int) -> Prompt:
        stage = batch.find_inputs[frame]
        return Prompt(
            box_embeddings=stage.input_boxes, box_mask=stage.input_boxes_mask, box_labels=stage.input_boxes_label
        )

    return prompt


def _detect(model: nn.Module, batch: Any, suppression: Suppression | None = None) -> list[dict[str, Tensor]]:
    with sam3_on_cpu():
        return detect_clip(model, batch, _prompts_of(batch), suppression)


@pytest.mark.parametrize("boxes", [0, 1], ids=["text", "text and boxes"])
def test_every_frame_is_what_the_image_model_finds_in_it_alone(boxes: int) -> None:
    """sam3's own forward for images, on a batch of that one frame: another way to the same numbers, bit for bit."""
    from sam3.model.sam3_image import Sam3Image

    model, batch = _toy(), make_clip(replace(SPEC, boxes=boxes))
    found = _detect(model, batch)
    assert len(found) == 3
    for frame, detections in enumerate(found):
        with sam3_on_cpu(), torch.no_grad():
            alone = Sam3Image.forward(model, one_frame(batch, frame))[0]
        assert set(detections) == DETECTIONS | {"pred_masks"} | TRACKER
        for name in (*DETECTIONS, "pred_masks"):
            assert torch.equal(detections[name], alone[name]), (frame, name)
        features = alone["prev_encoder_out"]["backbone_out"]["sam2_backbone_out"]
        for level in range(3):
            assert torch.equal(detections[f"tracker_fpn_{level}"], features["backbone_fpn"][level])
            assert torch.equal(detections[f"tracker_pos_enc_{level}"], features["vision_pos_enc"][level])


def test_frames_differ() -> None:
    """Otherwise the other tests could not tell one frame's answer from another's."""
    found = _detect(_toy(), make_clip(SPEC))
    for first, second in combinations(found, 2):
        for name in (*DETECTIONS, "pred_masks", "tracker_fpn_0", "tracker_fpn_1", "tracker_fpn_2"):
            assert not torch.equal(first[name], second[name]), name


def test_one_frame_by_hand_is_that_frame_of_the_clip() -> None:
    model, batch = _toy(), make_clip(SPEC)
    with sam3_on_cpu():
        text = encode_text(model, batch)
        arguments = (model, batch.img_batch, text, batch.find_inputs[2], _prompts_of(batch)(2))
        names = set(text)
        plain, lowered = detect_frame(*arguments), detect_frame(*arguments, SUPPRESSION)
    assert set(text) == names, "the shared text features are not added to"
    assert not any(tensor.requires_grad for tensor in plain.values())
    for name, expected in _detect(model, batch)[2].items():
        assert torch.equal(plain[name], expected), name
    for name, expected in _detect(model, batch, SUPPRESSION)[2].items():
        assert torch.equal(lowered[name], expected), name


def test_suppression_lowers_the_logits_of_each_frame_and_prompt_and_changes_nothing_else() -> None:
    model, batch = _toy(), make_clip(SPEC)
    removed_and_kept = set()
    for plain, lowered in zip(_detect(model, batch), _detect(model, batch, SUPPRESSION), strict=True):
        for prompt in range(2):
            kept = mask_nms(
                plain["pred_logits"][prompt, :, 0].sigmoid(),
                plain["pred_masks"][prompt],
                SUPPRESSION.probability,
                SUPPRESSION.iou,
            )
            expected = [
                value if keep else value - 1e4
                for value, keep in zip(plain["pred_logits"][prompt, :, 0], kept.tolist(), strict=True)
            ]
            assert torch.equal(lowered["pred_logits"][prompt, :, 0], torch.stack(expected))
            removed_and_kept.update(kept.tolist())
        assert set(lowered) == set(plain)
        for name in set(plain) - {"pred_logits"}:
            assert torch.equal(lowered[name], plain[name]), name
    assert removed_and_kept == {True, False}, "the thresholds tell nothing apart"


@pytest.mark.parametrize("segmentation", [True, False])
@pytest.mark.parametrize("tracker", [True, False])
def test_what_the_detector_lacks_is_left_out(segmentation: bool, tracker: bool) -> None:
    found = _detect(_toy(segmentation, tracker), make_clip(SPEC))
    expected = DETECTIONS | ({"pred_masks"} if segmentation else set()) | (TRACKER if tracker else set())
    assert [set(detections) for detections in found] == [expected] * 3


def test_the_geometric_prompt_of_each_frame_counts() -> None:
    """A box given for frame 1 only changes frame 1 only."""
    from sam3.model.geometry_encoders import Prompt

    model, batch = _toy(), make_clip(SPEC)
    asked: list[int] = []

    def prompt(frame: int) -> Prompt:
        asked.append(frame)
        boxes = 1 if frame == 1 else 0
        return Prompt(
            box_embeddings=torch.full((boxes, 2, 4), 0.5),
            box_mask=torch.zeros(2, boxes, dtype=torch.bool),
            box_labels=torch.ones(boxes, 2, dtype=torch.long),
        )

    with sam3_on_cpu():
        with_box = detect_clip(model, batch, prompt)
    without = _detect(model, batch)
    assert asked == [0, 1, 2]
    changed = [
        not torch.equal(one["pred_boxes"], other["pred_boxes"]) for one, other in zip(with_box, without, strict=True)
    ]
    assert changed == [False, True, False]


class _Scripted(nn.Module):
    """Gives the same tensors at every call, spoils the dictionary it was handed, and records what that held."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 2, 4))
        self.seen: list[set[str]] = []
        self.logits = torch.zeros(1, 2, 1)

    @property
    def backbone(self) -> _Scripted:
        return self

    def forward_text(self, captions: list[str], device: torch.device) -> dict[str, Tensor]:
        return {"language_features": torch.ones(len(captions))}

    def forward_grounding(self, backbone_out: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.seen.append(set(backbone_out))
        backbone_out["image"] = torch.zeros(())
        self.logits += 1
        return {
            "pred_logits": self.logits,
            "pred_boxes": self.weight,
            "pred_boxes_xyxy": self.weight,
            "queries": self.weight,
            "prev_encoder_out": {"backbone_out": {**backbone_out, "sam2_backbone_out": None}},
        }


def test_nothing_is_shared_between_frames() -> None:
    """A detector that keeps writing to the tensors and the dictionary of the call before reaches no other frame."""
    model = _Scripted().eval()
    found = detect_clip(model, make_clip(SPEC), lambda frame: None)
    assert model.seen == [{"img_batch_all_stages", "language_features"}] * 3
    assert [detections["pred_logits"].max().item() for detections in found] == [1.0, 2.0, 3.0]
    assert not any(tensor.requires_grad for detections in found for tensor in detections.values())
    assert set(found[0]) == DETECTIONS


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        detect_clip(_Scripted().train(), make_clip(SPEC), lambda frame: None)
