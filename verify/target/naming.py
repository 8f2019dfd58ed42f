"""What the user named as the target, and the names that come with this project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

#: The method that makes a class a detector over video; nothing rests on the class's name or base.
BUFFER_METHOD = "forward_video_grounding_multigpu"
DETECTOR = "sam3.model.sam3_image:Sam3ImageOnVideoMultiGPU"
BUILDER = "sam3.model_builder:build_sam3_image_video_model"
#: The recipe's loss, for targets that name none.
LOSS = "reference.recipe.loss:recipe_loss"
#: The corrected configuration of training.
CONFIG = "video_finetune"


@dataclass(frozen=True)
class _Ours:
    """A target that comes with this project."""

    detector: str
    builder: str
    loss: str
    config: str


OURS = {
    "reference": _Ours(
        "reference.recipe.model:Sam3ImageOnVideo",
        "reference.recipe.builder:build_sam3_image_video_model",
        "reference.recipe.loss:clip_loss",
        CONFIG,
    ),
    "posted": _Ours(
        "fixtures.posted.recipe:PostedVideoDetector",
        "fixtures.posted.recipe:build_sam3_image_video_model",
        LOSS,
        str(Path(__file__).parents[2] / "fixtures" / "posted" / "training.yaml"),
    ),
}
SYMBOL = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


class TargetError(Exception):
    """The target or its builder cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """What the user named. Small, hashable and picklable: every rank loads it for itself."""

    spec: str = "sam3"
    builder: str | None = None
    #: Makes the training loss: ``loss(masks=bool)`` gives what sam3's trainer calls with outputs and targets.
    loss: str | None = None
    #: The target's own training step: ``step(ddp_model, batch)`` gives the outputs of a clip.
    train_step: str | None = None
    #: What reads the annotations: ``loader(file)`` gives what sam3's datasets ask of a ``coco_json_loader``.
    loader: str | None = None
    #: The configuration that sam3's Trainer is run with: a YAML file.
    config: str | None = None

    def options(self) -> str:
        """The command-line options that name this target."""
        named = {"--builder": self.builder, "--loss": self.loss, "--train-step": self.train_step}
        named |= {"--loader": self.loader, "--config": self.config}
        return f"--target {self.spec}" + "".join(f" {option} {value}" for option, value in named.items() if value)


def is_path(spec: str) -> bool:
    return "/" in spec or "\\" in spec or spec in (".", "..") or spec.startswith("~")
