"""What the user named as the target, and the names that come with this project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHUNKED, BATCHED = "chunked", "batched"
#: The methods that make a class a detector over video, by the kind of their buffer: chunks of a frame a rank, or
#: batches of frames on every rank. Nothing rests on the class's name or base.
BUFFER_METHODS = {
    CHUNKED: "forward_video_grounding_multigpu",
    BATCHED: "forward_video_grounding_batched_multigpu",
}
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
    #: The checkout whose ``sam3`` is imported, for targets that stand on whichever there is.
    sam3: str | None = None
    #: Of several classes and buffers, the one that is looked at: ``package.module:Class:kind``.
    subject: str | None = None

    @property
    def subject_name(self) -> str:
        """The subject as reports and ``--subject`` name it, ``Class:kind``; "" where the target has but one."""
        return ":".join(self.subject.split(":")[-2:]) if self.subject else ""

    def _with(self) -> str:
        """The options that name parts of it, which take the place of what it comes with."""
        named = {"--builder": self.builder, "--loss": self.loss, "--train-step": self.train_step}
        named |= {"--loader": self.loader, "--config": self.config, "--sam3": self.sam3}
        return "".join(f" {option} {value}" for option, value in named.items() if value)

    def options(self) -> str:
        """The command-line options that name this target."""
        subject = f" --subject {self.subject_name}" if self.subject_name else ""
        return f"--target {self.spec}{self._with()}{subject}"

    @property
    def title(self) -> str:
        """What a verdict is about: the target, with the parts that were named for it."""
        return f"{self.spec} with{self._with()}" if self._with() else self.spec


def stands_for_a_package(target: Target) -> bool:
    """Whether the target is a whole package: ``sam3`` as it is installed, or a checkout's."""
    return target.builder is None and (target.spec == "sam3" or is_path(target.spec))


def is_path(spec: str) -> bool:
    return "/" in spec or "\\" in spec or spec in (".", "..") or spec.startswith("~")
