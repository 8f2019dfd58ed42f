"""How cases of the group *training* are drawn, each for what a check looks at."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from verify.clips.case import MAX_FRAMES, Training, trainings
from verify.target.naming import Target

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[Training]


def any_clips(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings()


def shortest_clip(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.just(Training(frames=2))


def clips_of_several_frames(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.sampled_from((2, 3, 4, 5)))


def long_clips(target: Target, world_sizes: WorldSizes) -> Cases:
    # The simplest case is the longest clip: one that a loop cuts short must not depend on luck to be drawn.
    longest_first = st.integers(0, MAX_FRAMES - 1).map(lambda less: MAX_FRAMES - less)
    # Beyond 32, which is where people cut.
    return trainings(frames=st.just(33) | longest_first, clips=st.just(1), prompts=st.just(1))


def batches_of_two_clips(target: Target, world_sizes: WorldSizes) -> Cases:
    """Two clips, of as many texts or not, with box prompts in each frame, in every other one, or in none."""
    first_true = st.sampled_from((True, False))
    batches = trainings(frames=st.sampled_from((2, 3, 4)), clips=st.just(2), boxes=st.sampled_from((1, 2, 0)))
    return st.builds(replace, batches, uneven=first_true, boxless=first_true)


def clips_with_boxes(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.sampled_from((2, 3)), prompts=st.integers(2, 3), boxes=st.integers(1, 2))


def short_clips(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.just(2), prompts=st.just(1))


def clips_with_objects(target: Target, world_sizes: WorldSizes) -> Cases:
    """Clips with objects, trained on boxes and masks or on boxes alone."""
    drawn = trainings(frames=st.sampled_from((3, 2, 4)), objects=st.sampled_from((3, 2, 1)))
    masks = st.sampled_from((True, False))
    return st.builds(lambda case, on: replace(case, masks=on, segmentation=on), drawn, masks)
