"""The models of a target: built once a process at toy width."""

from __future__ import annotations

from functools import lru_cache

from fixtures.toy.build import Construction, build_toy
from fixtures.toy.shrink import CannotShrink
from fixtures.toy.weights import perturb_weights
from verify.target.loading import load
from verify.target.naming import BUFFER_METHODS, Target


@lru_cache(maxsize=8)
def construction(
    target: Target, tracker: bool, segmentation: bool = True, eval_mode: bool = True, dropout: bool = False
) -> Construction:
    """Build the target's model at toy width, with or without a tracker neck, a segmentation head and dropout.

    In evaluation mode it is the module with a buffer in what the builder makes, which may be a whole video predictor.
    Its weights are perturbed: untrained, it would give the same boxes for every frame. Where a builder fails with the
    tracker neck on, the model has none.

    Raises:
        CannotShrink: where its builder fails or its model does not get small.
    """
    try:
        built = build_toy(
            load(target).builder,
            enable_inst_interactivity=tracker,
            enable_segmentation=segmentation,
            eval_mode=eval_mode,
            methods=tuple(BUFFER_METHODS.values()) if eval_mode else (),
            keep_dropout=dropout,
        )
    except CannotShrink:
        if not tracker:
            raise
        return construction(target, False, segmentation, eval_mode, dropout)
    perturb_weights(built.model)
    return built
