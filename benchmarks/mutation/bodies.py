"""What is edited, and by which checks an edit is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from verify.target.naming import Target

DETECTOR = "sam3.model.sam3_image:Sam3ImageOnVideoMultiGPU"


@dataclass(frozen=True)
class Body:
    """Code under verification."""

    #: By module, the functions and methods that are edited; none stands for all that the module defines.
    functions: Mapping[str, tuple[str, ...]]
    target: Target
    #: Groups of checks that concern it.
    groups: tuple[str, ...]
    #: Checks that between them run all of it on tensors: an edit of tensors that meets none in them is no edit.
    probes: tuple[str, ...]
    #: Whether gradients flow through it, so that stopping them is an edit.
    trained: bool = True
    #: Checks whose groups are others, and which concern it too.
    checks: tuple[str, ...] = field(default=())


BODIES: Mapping[str, Body] = {
    "chunked": Body(
        {
            "sam3.model.sam3_image": tuple(
                f"Sam3ImageOnVideoMultiGPU.{name}"
                for name in (
                    "__init__",
                    "forward_video_grounding_multigpu",
                    "_build_multigpu_buffer_next_chunk",
                    "_gather_tensor",
                )
            )
        },
        Target("sam3", subject=f"{DETECTOR}:chunked"),
        ("schedule", "parity"),
        ("test_tracker_features", "test_nms_suppression"),
        trained=False,
    ),
    "reference": Body(
        {"reference.recipe.model": (), "reference.recipe.loss": (), "reference.recipe.builder": ()},
        Target("reference"),
        ("training", "schedule", "gradients", "builder"),
        ("test_tracker_features", "test_nms_suppression", "test_clip_loss", "test_evaluation_outputs"),
    ),
    "batched": Body(
        {"fixtures.forks.batched.stepped": ()},
        Target("fixtures.forks.batched:SteppedBatches"),
        ("schedule", "parity"),
        ("test_tracker_features", "test_nms_suppression"),
        trained=False,
    ),
    "posted": Body(
        {"fixtures.posted.recipe": ()},
        Target("posted"),
        ("training", "gradients", "builder"),
        ("test_clip_loss", "test_evaluation_outputs"),
    ),
    "data": Body(
        {"reference.data.coco_video": (), "reference.data.video_dataset": ()},
        Target("reference"),
        ("data",),
        ("test_loader_makes_clips", "test_clip_stages"),
        trained=False,
    ),
}
