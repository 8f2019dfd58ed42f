"""What is true of a target that trains frame by frame, whether its checks pass or not, with what was measured.

So that nobody takes a passed gate for a trained tracker.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.ranks.environment import environment_of_rank
from fixtures.toy.build import build_toy
from fixtures.toy.shrink import CannotShrink
from verify.clips.capture import captured_output
from verify.clips.case import Training
from verify.clips.forward import why_no_clip_forward
from verify.clips.observe import on_one_rank
from verify.engine.finding import Violation
from verify.target.loading import load
from verify.target.models import construction
from verify.target.naming import BUFFER_METHODS, CHUNKED, Target
from verify.training.gradient_map import GradientMap, map_gradients

#: The clip that the statements are measured on.
CLIP = Training(frames=4)


def _in_words(rows: Sequence[Sequence[float]]) -> str:
    """A matrix in one line, row by row, in parts of its largest value."""
    largest = max((value for row in rows for value in row), default=0.0) or 1.0
    return "; ".join(" ".join("0" if value == 0 else f"{value / largest:.2g}" for value in row) for row in rows)


def _model(target: Target) -> nn.Module:
    return construction(target, tracker=False, segmentation=False, eval_mode=False).model


def _trains_no_tracker(target: Target, seen: GradientMap) -> str:
    rows = seen.frames
    between = any(value != 0 for stage, row in enumerate(rows) for frame, value in enumerate(row) if frame != stage)
    parts = sorted({part.split(".")[0] for part, norms in seen.modules.items() if any(norms)})
    evidence = (
        f"gradient of what is computed for frames 0 to {CLIP.frames - 1}, a row each, in the images of frames 0 to "
        f"{CLIP.frames - 1}, in parts of the largest: {_in_words(rows)}"
    )
    if between:
        return f"What is computed for a frame depends on other frames' images ({evidence})."
    tracker = [name for name, _ in _model(target).named_children() if "track" in name.lower()]
    where = f"{', '.join(tracker)} got none" if tracker else "the tracker is not in the model"
    return (
        "Nothing temporal is trained: frame t's loss has zero gradient to every other frame "
        f"({evidence}); {where} (gradient reached {', '.join(parts)})."
    )


def _ranks_from_environment(target: Target) -> str | None:
    """What the buffer would do under data parallelism, where it takes its rank from the environment."""
    if not hasattr(type(_model(target)), BUFFER_METHODS[CHUNKED]):
        return None
    built = construction(target, tracker=False, segmentation=False, eval_mode=False)
    with environment_of_rank(1, 2):
        model = built.again()
    if (getattr(model, "rank", None), getattr(model, "world_size", None)) != (1, 2):
        return None
    return (
        "Under data parallelism, where each rank holds another video, the chunked buffer would gather frames of "
        "different videos: rank and world size come from the environment, not from a process group (made under RANK=1 "
        "and WORLD_SIZE=2, the model takes itself for rank 1 of 2)."
    )


def _built_with_workarounds(target: Target) -> str | None:
    """What had to be worked around to build the target here; None where nothing had."""
    if torch.cuda.is_available():
        return None
    try:
        build_toy(load(target).builder, workarounds=False, enable_segmentation=False, eval_mode=False)
    except CannotShrink as error:
        return (
            "The model was built and run with sam3's requests for CUDA met on the CPU; without that its builder fails "
            f"where there is no CUDA: {error}"
        )
    return None


@lru_cache(maxsize=8)
def measured_gradients(target: Target) -> GradientMap | str:
    """The gradients of one clip of four frames, frame by frame and part by part; in words why there are none."""
    ranks = Threads()
    try:
        with captured_output():
            return on_one_rank(map_gradients)(ranks, target, CLIP)
    except (Violation, RanksFailed) as error:
        return str(error.args[0])
    finally:
        ranks.close()


@lru_cache(maxsize=8)
def statements(target: Target) -> tuple[str, ...]:
    """Sentences that a report makes of a target with a forward over several frames; none of another.

    Measured once a process on a clip of four frames.
    """
    if why_no_clip_forward(target) is not None:
        return ()
    seen = measured_gradients(target)
    temporal = (
        f"Which frames a frame's loss depends on could not be measured: {seen}."
        if isinstance(seen, str)
        else _trains_no_tracker(target, seen)
    )
    others = (_ranks_from_environment(target), _built_with_workarounds(target))
    return (temporal, *(text for text in others if text is not None))
