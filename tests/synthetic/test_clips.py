"""The synthetic clips are what sam3's own collator makes, and are cut into frames rightly."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from sam3.train.data.collator import collate_fn_api

from fixtures.synthetic.clips import ClipSpec, clip_specs, make_clip
from fixtures.synthetic.datapoints import datapoints
from reference.oracle.training import one_frame


def assert_same(got: Any, expected: Any, path: str = "batch") -> None:
    """Compare two batches field by field: type, shape, dtype and values."""
    assert type(got) is type(expected), f"{path}: {type(got)} is not {type(expected)}"
    if is_dataclass(got):
        for field in fields(got):
            assert_same(getattr(got, field.name), getattr(expected, field.name), f"{path}.{field.name}")
    elif isinstance(got, torch.Tensor):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), path
        assert torch.equal(got, expected), path
    elif isinstance(got, (list, tuple)):
        assert len(got) == len(expected), path
        for index, pair in enumerate(zip(got, expected, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        assert got == expected, path


def _in_order_of(texts: list[str], batch: Any) -> Any:
    """The batch with its texts in this order: a collator lists them as it meets them."""
    assert set(texts) >= set(batch.find_text_batch)
    number = torch.tensor([texts.index(text) for text in batch.find_text_batch])
    stages = [replace(stage, text_ids=number[stage.text_ids]) for stage in batch.find_inputs]
    return replace(batch, find_text_batch=texts, find_inputs=stages)


@given(spec=clip_specs())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_clips_are_what_the_collator_of_sam3_makes(spec: ClipSpec) -> None:
    batch = make_clip(spec)
    said = datapoints(spec.clip_of_query, batch.img_batch, batch.find_text_batch, batch.find_inputs, batch.find_targets)
    collated = collate_fn_api(said, dict_key="all", with_seg_masks=spec.masks)["all"]
    assert_same(_in_order_of(batch.find_text_batch, collated), batch)


@given(spec=clip_specs())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_same_seed_gives_the_same_clip_and_another_seed_another(spec: ClipSpec) -> None:
    assert_same(make_clip(spec), make_clip(spec))
    other = ClipSpec(spec.frames, spec.prompts, spec.clips, seed=spec.seed + 1)
    assert not torch.equal(make_clip(spec).img_batch, make_clip(other).img_batch)


@given(spec=clip_specs(masks=True))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_numbers_are_in_range(spec: ClipSpec) -> None:
    batch = make_clip(spec)
    assert batch.img_batch.abs().max() <= 1
    assert len(set(batch.find_text_batch)) == spec.queries
    counts = [target.num_boxes for target in batch.find_targets]
    assert max(int(count.max()) for count in counts) <= spec.objects
    assert sum(int(count.sum()) for count in counts) > 0 or spec.objects == 0
    for target in batch.find_targets:
        centre, size = target.boxes.view(-1, 4).split(2, dim=1)
        assert ((centre - size / 2) >= 0).all()
        assert ((centre + size / 2) <= 1).all()
        if target.segments.numel():
            assert target.segments.flatten(1).any(1).all(), "every object has a pixel"


@given(spec=clip_specs())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_one_frame_is_the_frame_alone(spec: ClipSpec) -> None:
    batch = make_clip(spec)
    for frame in range(spec.frames):
        alone = one_frame(batch, frame)
        assert alone.img_batch.shape[0] == spec.clips
        assert len(alone.find_inputs) == len(alone.find_targets) == 1
        stage = batch.find_inputs[frame]
        assert torch.equal(alone.img_batch[alone.find_inputs[0].img_ids], batch.img_batch[stage.img_ids])
        assert torch.equal(alone.find_inputs[0].input_boxes, stage.input_boxes)
        assert alone.find_targets[0] is batch.find_targets[frame]


def test_without_targets_every_frame_says_none() -> None:
    assert make_clip(ClipSpec(frames=3, targets=False)).find_targets == [None, None, None]


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make_clip(ClipSpec(frames=0))
