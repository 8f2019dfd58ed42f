"""A case of the group *data*: videos, and the clips that are drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.videos import BOTH, MAX_FRAMES, VideoSpec
from verify.engine.case import changed_fields, refuse_unknown_fields
from verify.target.naming import Target


@dataclass(frozen=True)
class Loading:
    """Videos, and the clips that are drawn from them. It runs on one rank."""

    videos: int = 2
    #: Frames of each video.
    frames: int = 12
    objects: int = 3
    #: Whether all objects of a video are of one category, and whether every second video is upright.
    alike: bool = False
    sizes_differ: bool = False
    #: Frames of a clip, and the stride between them.
    stages: int = 4
    stride_min: int = 1
    stride_max: int = 1
    #: Whether clips may be played backwards.
    reverse: bool = False
    masks: bool = False
    #: Most queries a frame, -1 for all.
    max_query_num: int = -1
    #: Whether single images are repeated as clips.
    tiling: bool = False
    #: Whether the configuration's own transforms are applied; else plain ones.
    own_transforms: bool = False
    #: The limit of a filter of queries by their objects, where the transforms have one; 0 leaves it.
    max_num_objects: int = 0
    #: How the annotations hold masks; "" for what the target's data path reads.
    mask_layout: str = ""
    #: A frame of the first video whose image file is missing, or -1.
    missing: int = -1
    epoch: int = 0
    #: Of the videos.
    seed: int = 0

    @property
    def world_size(self) -> int:
        return 1

    def spec(self) -> VideoSpec:
        return VideoSpec(
            videos=self.videos,
            frames=self.frames,
            objects=self.objects,
            mixed=True,
            alike=self.alike,
            sizes_differ=self.sizes_differ,
            masks=self.mask_layout or BOTH,
            seed=self.seed,
        )

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the number of stages always."""
        return changed_fields(self, "stages")


#: How a field's type is called.
_KINDS = {bool: "true or false", int: "a whole number", str: "text"}


def loading_from_json(data: Mapping[str, Any]) -> Loading:
    """Read a case as ``Loading.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Loading, data)
    defaults = {f.name: f.default for f in fields(Loading)}
    for name, value in data.items():
        if type(value) is not type(defaults[name]):
            raise ValueError(f"{name} is {value!r}: expected {_KINDS[type(defaults[name])]}")
    case = Loading(**data)
    case.spec()
    return case


WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[Loading]


def loadings(target: Target, world_sizes: WorldSizes, **fixed: st.SearchStrategy[object]) -> Cases:
    fields: dict[str, st.SearchStrategy[object]] = {
        "stages": st.sampled_from((4, 2, 6, 3)),
        "objects": st.sampled_from((3, 2, 4)),
        "masks": st.booleans(),
        "epoch": st.integers(0, 9),
        "seed": st.integers(0, 15),
        **fixed,
    }
    return st.builds(Loading, **fields)


def loadings_of_any_length(target: Target, world_sizes: WorldSizes) -> Cases:
    """The simplest clip is the longest, so that it is drawn always: one that is cut short must not hang on luck."""
    drawn = loadings(target, world_sizes, stages=st.sampled_from((MAX_FRAMES, 4, 2, 6, 3)))
    return drawn.map(lambda case: replace(case, frames=max(case.frames, case.stages)))


def loadings_at_any_stride(target: Target, world_sizes: WorldSizes) -> Cases:
    """Clips at a stride, of videos that may differ in size, and may show several objects of what is asked for."""
    others = {"alike": st.booleans(), "sizes_differ": st.sampled_from((True, False))}
    return loadings(target, world_sizes, reverse=st.booleans(), stride_min=st.integers(1, 2), **others).flatmap(
        lambda case: st.builds(replace, st.just(case), stride_max=st.integers(case.stride_min, 3))
    )
