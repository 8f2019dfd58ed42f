"""What is edited, and by which checks an edit is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verify.target.naming import Target


@dataclass(frozen=True)
class Region:
    """Functions of a module."""

    module: str
    #: Groups of checks that concern them.
    groups: tuple[str, ...]
    #: Checks that between them run all of it on tensors: an edit of tensors that meets none in them is no edit. Without
    #: any, every check is asked first.
    probes: tuple[str, ...] = ()
    #: Functions and methods by their qualified names; none stands for all that the module defines.
    functions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Body:
    """Code under verification."""

    target: Target
    regions: tuple[Region, ...]
    #: Whether gradients flow through it, so that stopping them is an edit.
    trained: bool = True

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(group for region in self.regions for group in region.groups)

    def region(self, module: str) -> Region:
        """The region in a module."""
        (found,) = (region for region in self.regions if region.module == module)
        return found


_BUFFER = ("schedule", "parity")
_TRAINING = ("training", "gradients")
_FEATURES_AND_NMS = ("test_tracker_features", "test_nms_suppression")
_STEPS = ("test_clip_loss", "test_evaluation_outputs")
_DETECTOR = "Sam3ImageOnVideoMultiGPU"

BODIES: Mapping[str, Body] = {
    "chunked": Body(
        Target("sam3", subject=f"sam3.model.sam3_image:{_DETECTOR}:chunked"),
        (
            Region(
                "sam3.model.sam3_image",
                _BUFFER,
                _FEATURES_AND_NMS,
                (
                    f"{_DETECTOR}.__init__",
                    f"{_DETECTOR}.forward_video_grounding_multigpu",
                    f"{_DETECTOR}._build_multigpu_buffer_next_chunk",
                    f"{_DETECTOR}._gather_tensor",
                ),
            ),
        ),
        trained=False,
    ),
    "reference": Body(
        Target("reference"),
        (
            Region("reference.recipe.model", (*_TRAINING, *_BUFFER), (*_FEATURES_AND_NMS, *_STEPS)),
            Region("reference.recipe.loss", _TRAINING, _STEPS),
            Region("reference.recipe.builder", ("builder", *_TRAINING, "schedule"), _STEPS),
        ),
    ),
    "batched": Body(
        Target("fixtures.forks.batched:SteppedBatches"),
        (Region("fixtures.forks.batched.stepped", _BUFFER, _FEATURES_AND_NMS),),
        trained=False,
    ),
    "posted": Body(
        Target("posted"),
        (Region("fixtures.posted.recipe", ("builder", *_TRAINING), _STEPS),),
    ),
    "data": Body(
        Target("reference", loader="reference.data.coco_video:CocoVideo"),  # as a fork's maintainer names his own
        (Region("reference.data.coco_video", ("data",)), Region("reference.data.video_dataset", ("data",))),
        trained=False,
    ),
}
