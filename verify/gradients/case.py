"""How cases of the group *gradients* are drawn: batches that bring as much of the model into play as there is."""

from __future__ import annotations

from hypothesis import strategies as st

from verify.clips.case import Training
from verify.target.naming import Target

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[Training]


@st.composite
def rich_batches(draw: st.DrawFn) -> Training:
    """Draw short clips; the simplest has prompts of both kinds, objects, masks and a segmentation head."""
    return Training(
        frames=draw(st.sampled_from((2, 1, 3))),
        prompts=draw(st.integers(1, 2)),
        boxes=draw(st.sampled_from((1, 2, 0))),
        objects=draw(st.sampled_from((2, 3, 1))),
        masks=draw(st.sampled_from((True, False))),
        segmentation=draw(st.sampled_from((True, False))),
        seed=draw(st.integers(0, 255)),
    )


def any_batches(target: Target, world_sizes: WorldSizes) -> Cases:
    return rich_batches()


def one_frame(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.just(Training(frames=1, boxes=1))


def short_clip(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.just(Training(frames=2, boxes=1, masks=True, segmentation=True))
