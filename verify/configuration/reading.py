"""What a target's data path reads: which layout of annotations, by which loader, with which masks."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from fixtures.synthetic.videos import BOTH, MASKS, SIZE, VIDEO_ANNOTATIONS, VideoSpec
from fixtures.trainer import plain_transforms, train_on
from reference.configuration import ConfigurationError
from verify.configuration.configured import configuration_of, taken_by
from verify.configuration.videos import LAYOUTS, SAMPLE, videos_of
from verify.target.naming import Target

#: sam3's own loader, of COCO annotations of single images, where neither configuration nor dataset names another.
_IMAGE_LOADER = "COCO_FROM_JSON"


#: The options of a dataset of clips, as sam3's has them, by which every case asks for clips.
_ASKED_BY = (
    "img_folder",
    "ann_file",
    "transforms",
    "num_stages_sample",
    "stage_stride_min",
    "stage_stride_max",
    "random_reverse_time_axis",
)


def why_no_data_path(target: Target) -> str | None:
    """Say why the data path of a target cannot be tried, or give None where it can."""
    if reason := why_not_readable(target):
        return reason
    lacking = _options_lacking(target)
    if not lacking:
        return None
    name = configuration_of(target).trainer.data.train.dataset["_target_"]
    return f"{name} does not take {', '.join(lacking)}, by which clips are asked for here"


def why_not_readable(target: Target) -> str | None:
    """Say why a target's configuration or its annotations cannot be read, or give None where they can.

    None, too, where its dataset cannot be asked for clips: then no loader is tried.
    """
    try:
        refused = {} if _options_lacking(target) else _refused_layouts(target)
    except ConfigurationError as error:
        return str(error)
    if len(refused) < len(LAYOUTS):
        return None
    reasons = "; ".join(f"{LAYOUTS[layout]}: {reason}" for layout, reason in refused.items())
    return (
        f"{loader_name(target)} reads none of the layouts that videos come in here ({reasons}): name another --loader"
    )


def _options_lacking(target: Target) -> list[str]:
    """The options that clips are asked for by and that a target's dataset does not take."""
    configuration_of(target)  # where it cannot be read, nothing is told
    try:
        taken = taken_by(target, **dict.fromkeys(_ASKED_BY))
    except Exception:  # that there is no such dataset is what a finding is about
        return []
    return [option for option in _ASKED_BY if option not in taken]


@contextmanager
def captured_text() -> Iterator[io.StringIO]:
    """Catch what is written meanwhile: sam3's datasets say there why they go on with another clip."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        yield written


def one_line_reason(error: BaseException, printed: str) -> str:
    """Say in one line why a data path failed; ``printed`` is what was caught meanwhile."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    said = [line.removeprefix("Exception: ") for line in printed.splitlines() if line.startswith("Exception: ")]
    return f"{text} ({said[0]})" if said else text


def _dataset(target: Target, spec: VideoSpec, layout: str) -> Any:
    """The target's dataset on videos, with masks and with transforms that do nothing at random."""
    config, videos = copy.deepcopy(configuration_of(target)), videos_of(spec)
    train_on(
        config,
        videos.folder,
        videos.folder / layout,
        num_stages_sample=2,
        transforms=plain_transforms(SIZE[1]),
        **taken_by(target, load_segmentation=True),
    )
    return instantiate(config.trainer.data.train.dataset)


def _loader(target: Target, layout: str, frames: int = SAMPLE.frames) -> Any:
    """What has read annotations in a layout: the one that is named, or that the dataset has made, or the dataset.

    Of videos of so many ``frames``.

    Raises:
        Exception: what it let out, where it reads them with no kind of masks.
    """
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    first: Exception | None = None
    for masks in (BOTH, *MASKS):
        spec = replace(SAMPLE, masks=masks, frames=frames)
        try:
            if node is None:
                dataset = _dataset(target, spec, layout)
                return getattr(dataset, "coco", dataset)
            return instantiate(node)(str(videos_of(spec).folder / layout))
        except Exception as error:  # whatever a loader says of what it was not made for
            first = first or error
    assert first is not None
    raise first


@lru_cache(maxsize=8)
def _refused_layouts(target: Target) -> Mapping[str, str]:
    """The layouts of annotations that a target's loader fails on, with the error."""
    configuration_of(target)  # where it cannot be read, nothing is refused
    refused = {}
    for layout in LAYOUTS:
        try:
            with captured_text():
                loader = _loader(target, layout)
                loader.getDatapointIds() if hasattr(loader, "getDatapointIds") else len(loader)
        except Exception as error:
            refused[layout] = one_line_reason(error, "")
    return refused


def layout_of(target: Target) -> str:
    """Which layout of annotations a target's loader reads; one reads some where ``why_no_data_path`` gives None."""
    return next(layout for layout in LAYOUTS if layout not in _refused_layouts(target))


@lru_cache(maxsize=8)
def masks_read(target: Target) -> str:
    """Which masks a target's data path reads, of those that COCO-video annotations may hold: both, or one kind.

    Both where it reads none: then that is what is looked at.
    """
    if layout_of(target) != VIDEO_ANNOTATIONS:
        return BOTH
    for masks in (BOTH, *MASKS):
        try:
            with captured_text():
                dataset = _dataset(target, replace(SAMPLE, masks=masks), VIDEO_ANNOTATIONS)
                for index in range(len(dataset)):
                    dataset[index]
        except Exception:  # that it fails is what a finding is about
            continue
        return masks
    return BOTH


def loader_name(target: Target) -> str:
    """What reads the target's annotations, as a finding names it."""
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    if node is not None:
        return str(node["_target_"])
    if len(_refused_layouts(target)) == len(LAYOUTS):
        return str(configuration_of(target).trainer.data.train.dataset["_target_"])
    with captured_text():
        made = type(_loader(target, layout_of(target)))
    if made.__name__ == _IMAGE_LOADER:
        return f"{_IMAGE_LOADER} (sam3's default, for single images)"
    return f"{made.__module__}.{made.__qualname__}"


def source_of(target: Target, stages: int) -> str:
    """What the target's clips come from, as a finding names it; with what it lacks for clips of so many ``stages``."""
    name = loader_name(target)
    try:
        with captured_text():
            loaded = _loader(target, layout_of(target), max(SAMPLE.frames, stages))
            frames = len(loaded.loadImagesFromDatapoint(loaded.getDatapointIds()[0]))
    except Exception:  # that it fails is what the finding is about
        return name
    if frames >= stages:
        return name
    return f"{name}, which makes datapoints of {frames} frame{'s' * (frames > 1)} where {stages} are asked for"
