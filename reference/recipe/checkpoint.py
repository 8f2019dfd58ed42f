"""Loading a checkpoint in sam3's layout, with every key accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

#: Prefixes of a released checkpoint: the detector, and the tracker that the interactive predictor wraps.
DETECTOR, TRACKER = "detector.", "tracker."
#: Where the tracker's weights go in a detector with an interactive predictor.
PREDICTOR = "inst_interactive_predictor.model."
#: Parts that a model may be built without, and whose weights then have no place.
OPTIONAL = (
    "segmentation_head.",
    *(f"backbone.vision_backbone.{neck}_convs." for neck in ("sam2", "interactive", "propagation")),
    PREDICTOR,
)


@dataclass(frozen=True)
class Loaded:
    """Where the keys of a checkpoint and of a model went; names as in the model, unless unknown to it."""

    loaded: tuple[str, ...]
    #: Of a part that the model was built without.
    left_out: tuple[str, ...]
    #: In the model and not in the checkpoint: these keep their initial values.
    missing: tuple[str, ...]
    #: In the checkpoint and nowhere in the model.
    unexpected: tuple[str, ...]


def _named(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a released checkpoint's keys to the detector's; the keys of a trained detector stay as they are."""
    if not any(key.startswith(DETECTOR) for key in weights):
        return dict(weights)
    named = {}
    for key, tensor in weights.items():
        if key.startswith(DETECTOR):
            key = key.removeprefix(DETECTOR)
        elif key.startswith(TRACKER):
            key = PREDICTOR + key.removeprefix(TRACKER)
        named[key] = tensor
    return named


def load_checkpoint(model: nn.Module, path: str | PathLike[str]) -> Loaded:
    """Load a checkpoint into a detector: a released one (``detector.…``, ``tracker.…``) or one saved in training.

    The file holds a state dict, or one under the key ``model``. Keys of parts that the model is built without are
    left out; others that do not fit, and parameters that the checkpoint lacks, are named in a warning.

    Raises:
        ValueError: when nothing in the checkpoint has a place in the model.
        RuntimeError: (from torch) when a tensor's shape differs from the model's.
    """
    content: Any = torch.load(path, map_location="cpu", weights_only=True)
    weights = content["model"] if isinstance(content.get("model"), Mapping) else content
    named = _named(weights)
    wanted = model.state_dict().keys()
    if not named.keys() & wanted:
        raise ValueError(
            f"{path}: none of its {len(named)} keys has a place in the detector. Keys start with {DETECTOR!r} in a "
            f"released checkpoint and have no prefix in one saved in training; found {sorted(weights)[:3]}"
        )
    model.load_state_dict(named, strict=False)
    foreign = [key for key in named if key not in wanted]
    absent = tuple(part for part in OPTIONAL if not any(key.startswith(part) for key in wanted))
    result = Loaded(
        loaded=tuple(key for key in named if key in wanted),
        left_out=tuple(key for key in foreign if key.startswith(absent)),
        missing=tuple(key for key in wanted if key not in named),
        unexpected=tuple(key for key in foreign if not key.startswith(absent)),
    )
    logger.info("%s: %d tensors loaded, %d left out", path, len(result.loaded), len(result.left_out))
    if result.missing:
        logger.warning("%s lacks %s: these keep their initial values", path, ", ".join(result.missing))
    if result.unexpected:
        logger.warning("%s holds %s, for which the model has no place", path, ", ".join(result.unexpected))
    return result
