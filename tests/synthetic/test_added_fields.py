"""Batches of a fork that has added a field to sam3's, and left one out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import checkout
from tests.engine.gate import judged_by

pytestmark = pytest.mark.xdist_group("checkout")
#: Targets that say of each object whether it has a box, and hold no boxes for hybrid matching.
TARGETS = """
from dataclasses import make_dataclass

_kept = [(field.name, field.type) for field in fields(BatchedFindTarget) if field.name != "repeated_boxes"]
_types = {f"{name}__type": getattr(BatchedFindTarget, f"{name}__type") for name, _ in _kept}
BatchedFindTarget = make_dataclass(
    "BatchedFindTarget",
    [*_kept, ("has_boxes", MyTensor)],
    namespace={**_types, "has_boxes__type": torch.bool},
)
BatchedFindTarget.__module__ = __name__
"""
#: A collator that makes such targets.
COLLATOR = """
_asked, _collate = BatchedFindTarget, collate_fn_api


def BatchedFindTarget(repeated_boxes, **known):
    target = _asked(has_boxes=[], **known)
    target.repeated_boxes = repeated_boxes
    return target


def collate_fn_api(*args, **kwargs):
    batches = _collate(*args, **kwargs)
    for batch in batches.values():
        for target in batch.find_targets:
            target.has_boxes = torch.ones(int(target.num_boxes.sum()), dtype=torch.bool)
    return batches
"""
#: A model that reads them.
MODEL = """
_converted = Sam3Image.back_convert


def _with_boxes(self, targets):
    assert len(targets.has_boxes) == int(targets.num_boxes.sum())
    return _converted(self, targets)


Sam3Image.back_convert = _with_boxes
"""
COMPLETE: dict[str, str] = {"data_misc": TARGETS, "sam3_image": MODEL, "train/data/collator": COLLATOR}


def test_what_its_collator_does_not_make_is_said_and_not_judged(tmp_path: Path) -> None:
    checkout.write_plain(tmp_path, data_misc=TARGETS, sam3_image=MODEL)
    check = judged_by("test_one_frame_step_runs", tmp_path / "report.json", "--target", str(tmp_path))
    assert check["outcome"] == "not_provided", check
    assert "its find_targets ask for has_boxes, and its collator does not make that" in check["reason"]


@pytest.mark.parametrize("name", ["test_one_frame_step_runs", "test_parity_detections"])
def test_a_model_that_reads_it_is_given_it(name: str, tmp_path: Path) -> None:
    checkout.write_plain(tmp_path, **COMPLETE)
    check = judged_by(name, tmp_path / "report.json", "--target", str(tmp_path))
    assert check["outcome"] == "passed", check


def test_clips_are_trained_on_with_it(tmp_path: Path) -> None:
    checkout.write_plain(tmp_path, **COMPLETE)
    check = judged_by("test_clip_loss", tmp_path / "report.json", "--target", "reference", "--sam3", str(tmp_path))
    assert check["outcome"] == "passed", check
