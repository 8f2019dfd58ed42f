"""A case of the groups *data* and *trainer*: synthetic videos, how clips are drawn from them, and what arrives."""

from __future__ import annotations

import copy
import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from fixtures.trainer import MEAN, STD, plain_transforms, train_on
from fixtures.videos import (
    CATEGORIES,
    IMAGE_ANNOTATIONS,
    SIZE,
    VIDEO_ANNOTATIONS,
    Shown,
    Videos,
    VideoSpec,
    box_around,
    image_annotations,
    look_at,
    make_videos,
    video_annotations,
    write,
)
from reference.configuration import ConfigurationError, read_configuration
from verify.case import changed_fields, refuse_unknown_fields
from verify.target import CONFIG, Target, load

#: sam3's own loader, where none is named: COCO annotations of single images.
_IMAGE_LOADER = "sam3.train.data.coco_json_loaders.COCO_FROM_JSON"
#: sam3's own dataset of clips: what a loader is tried with where no configuration names another.
VIDEO_DATASET = "sam3.train.data.sam3_video_dataset.VideoGroundingDataset"


@dataclass(frozen=True)
class Loading:
    """Videos, and the clips that are drawn from them. It runs on one rank."""

    videos: int = 2
    #: Frames of each video.
    frames: int = 12
    objects: int = 3
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
    #: A frame of the first video whose image file is missing, or -1.
    missing: int = -1
    epoch: int = 0
    #: Of the videos.
    seed: int = 0

    @property
    def world_size(self) -> int:
        return 1

    def spec(self) -> VideoSpec:
        return VideoSpec(videos=self.videos, frames=self.frames, objects=self.objects, mixed=True, seed=self.seed)

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the number of stages always."""
        return changed_fields(self, "stages")


def loading_from_json(data: Mapping[str, Any]) -> Loading:
    """Read a case as ``Loading.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Loading, data)
    defaults = {f.name: f.default for f in fields(Loading)}
    for name, value in data.items():
        if type(value) is not type(defaults[name]):
            kind = "true or false" if isinstance(defaults[name], bool) else "a whole number"
            raise ValueError(f"{name} is {value!r}: expected {kind}")
    case = Loading(**data)
    case.spec()
    return case


# What arrives


#: How the texts of a clip are marked as its own before it is put into a batch.
_MARK = re.compile(r" in video (\d+)")


@dataclass(frozen=True)
class Query:
    """One text asked for in one frame, with what is expected."""

    text: str
    #: Index of the image in the batch, and what it shows; None where its colours are unknown.
    image: int
    shown: Shown | None
    #: Left, top, right, bottom in parts of the image.
    boxes: tuple[tuple[float, ...], ...]
    #: The smallest box around each object's mask, the same way; None where it has none, empty where that is empty.
    masks: tuple[tuple[float, ...] | None, ...]

    @property
    def category(self) -> int | None:
        """Number of the category that the text names."""
        named = [number for number, name in enumerate(CATEGORIES) if name in self.text.lower()]
        return named[0] if len(named) == 1 else None

    @property
    def asked_of(self) -> int | None:
        """Number of the video whose clip the text came with, where it was marked."""
        found = _MARK.search(self.text)
        return int(found[1]) if found else None


#: The queries of each stage of a batch.
Stages = tuple[tuple[Query, ...], ...]


@dataclass(frozen=True)
class Arrived:
    """A batch that a data path has made: a clip, or several together."""

    stages: Stages
    #: What each image of the batch shows.
    images: tuple[Shown | None, ...]


def _corners(box: torch.Tensor) -> tuple[float, ...]:
    x, y, width, height = (float(value) for value in box.flatten())
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _around_masks(target: Any) -> tuple[tuple[float, ...] | None, ...]:
    """The box around the mask of each object of a stage, as ``Query.masks`` has them."""
    if target.segments is None or not len(target.segments):
        return (None,) * int(target.num_boxes.sum())
    segments = zip(target.segments, target.is_valid_segment, strict=True)
    return tuple(box_around(mask) or () if valid else None for mask, valid in segments)


def read_batch(batch: Any, mean: torch.Tensor, std: torch.Tensor) -> Arrived:
    """Read a collated batch: what each stage asks for, of which image, and what it expects there.

    ``mean`` and ``std`` [3, 1, 1] are what its images were normalised with.
    """
    images = tuple(look_at(image.float() * std + mean) for image in batch.img_batch)
    stages = []
    for find, target in zip(batch.find_inputs, batch.find_targets, strict=True):
        queries, start, around = [], 0, _around_masks(target)
        for number, (image, text) in enumerate(zip(find.img_ids.tolist(), find.text_ids.tolist(), strict=True)):
            count = int(target.num_boxes[number])
            boxes = tuple(_corners(box) for box in target.boxes.view(-1, 4)[start : start + count])
            queries.append(
                Query(batch.find_text_batch[text], image, images[image], boxes, around[start : start + count])
            )
            start += count
        stages.append(tuple(queries))
    return Arrived(tuple(stages), images)


# The data path of a target

#: What a configuration has to say.
_NEEDED = (
    "trainer.model._target_",
    "trainer.loss",
    "trainer.optim",
    "trainer.data.train.collate_fn",
    "trainer.data.train.dataset._target_",
    "trainer.data.train.dataset.transforms",
)


@lru_cache(maxsize=8)
def configuration_of(target: Target) -> DictConfig:
    """The configuration that a target is trained with.

    Raises:
        ConfigurationError: when the one that is named cannot be read.
    """
    named = load(target).config
    if named is None and target.loader is None:
        raise ConfigurationError(
            f"{target.spec} comes without a configuration of training: name it with --config FILE.yaml, or what reads "
            "the annotations with --loader package.module:Name"
        )
    config = read_configuration(named or CONFIG)
    for key in _NEEDED:
        if OmegaConf.select(config, key) is None:
            raise ConfigurationError(f"--config {named}: has no {key}, which a Trainer on clips needs")
    OmegaConf.set_struct(config, False)
    dataset = config.trainer.data.train.dataset
    if named is None:
        dataset["_target_"] = VIDEO_DATASET
        dataset.pop("seed", None)
    if target.loader is not None:
        dataset.coco_json_loader = {"_target_": target.loader.replace(":", "."), "_partial_": True}
    return config


def lacks_data_path(target: Target) -> str | None:
    """Say why the data path of a target cannot be tried, or give None where it can."""
    try:
        refused = _refused_layouts(target)
    except ConfigurationError as error:
        return str(error)
    if len(refused) < len(_LAYOUTS):
        return None
    reasons = "; ".join(f"{_LAYOUTS[layout]}: {reason}" for layout, reason in refused.items())
    return (
        f"{loader_name(target)} reads none of the layouts that videos come in here ({reasons}): name another --loader"
    )


def declares(target: Target, option: str) -> bool:
    """Whether the target's dataset of clips takes an option: one on top of sam3's takes sam3's, too."""
    made_by: Any = get_method(configuration_of(target).trainer.data.train.dataset["_target_"])
    makers = (
        [vars(base)["__init__"] for base in made_by.__mro__ if "__init__" in vars(base)]
        if isclass(made_by)
        else [made_by]
    )
    return any(option in signature(maker).parameters for maker in makers)


def loads_masks(target: Target) -> bool:
    """Whether the target's configuration loads masks, so that a stage without them has lost them on the way."""
    return bool(configuration_of(target).trainer.data.train.dataset.get("load_segmentation"))


def source_of(target: Target, stages: int) -> str:
    """What the target's clips come from, as a finding names it; with what it lacks for clips of so many ``stages``."""
    name = loader_name(target)
    try:
        node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
        loader = instantiate(node) if node is not None else get_method(_IMAGE_LOADER)
        with captured():
            loaded = loader(str(videos_of(Loading().spec()).folder / layout_of(target)))
            frames = len(loaded.loadImagesFromDatapoint(loaded.getDatapointIds()[0]))
    except Exception:  # that it fails is what the finding is about
        return name
    if frames >= stages:
        return name
    return f"{name}, which makes datapoints of {frames} frame{'s' * (frames > 1)} where {stages} are asked for"


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """Catch what is written meanwhile: sam3's datasets say there why they go on with another clip."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        yield written


@lru_cache(maxsize=16)
def _folder(spec: VideoSpec) -> tuple[tempfile.TemporaryDirectory[str], Videos]:
    held = tempfile.TemporaryDirectory(prefix="videos-")
    return held, make_videos(Path(held.name), spec)


def videos_of(spec: VideoSpec) -> Videos:
    """Videos on disk, drawn once a process."""
    return _folder(spec)[1]


_SIZES = ("size", "sizes", "min_size", "max_size", "resolution")
#: Height and width of images after plain transforms: larger than the files, so that no colour is blended away.
_SIZE = 192
#: So many times smaller are images than a configuration makes them, for speed.
_SMALLER = 4


def _adapted(node: Any, name: str, case: Loading) -> Any:
    """Make the images of a configuration's transforms smaller, and set the limit of its filters as the case has it."""
    if isinstance(node, dict):
        return {key: _adapted(value, key, case) for key, value in node.items()}
    if isinstance(node, list):
        return [_adapted(value, name, case) for value in node]
    if name == "max_num_objects" and case.max_num_objects:
        return case.max_num_objects
    if name in _SIZES and isinstance(node, int) and not isinstance(node, bool) and node >= 64 * _SMALLER:
        return node // _SMALLER
    return node


def dataset_config(target: Target, case: Loading, size: int = _SIZE) -> DictConfig:
    """The configuration of a target's training data for a case; plain transforms make images of ``size`` pixels."""
    config = copy.deepcopy(configuration_of(target))
    videos = videos_of(case.spec())
    dataset = config.trainer.data.train.dataset
    options: dict[str, Any] = {
        "num_stages_sample": case.stages,
        "stage_stride_min": case.stride_min,
        "stage_stride_max": case.stride_max,
        "random_reverse_time_axis": case.reverse,
        "load_segmentation": case.masks,
        "transforms": _adapted(OmegaConf.to_container(dataset.transforms, resolve=True), "", case)
        if case.own_transforms
        else plain_transforms(size),
    }
    if case.max_query_num > 0:
        options["max_query_num"] = case.max_query_num
    if case.tiling:
        options["is_tiling_single_image"] = True
    train_on(config, videos.folder, _annotations(target, case), **options)
    data = config.trainer.data.train
    data.num_workers = 0
    if "with_seg_masks" in data.collate_fn:
        data.collate_fn.with_seg_masks = case.masks
    return data


def _annotations(target: Target, case: Loading) -> Path:
    """The file of annotations for a target's loader: COCO-video, or an image a frame where it reads only those."""
    videos, layout = videos_of(case.spec()), layout_of(target)
    if case.missing < 0:
        return videos.folder / layout
    name = f"missing_{case.missing}.png"
    if layout == IMAGE_ANNOTATIONS:
        broken = image_annotations(videos)
        broken["images"][case.missing]["file_name"] = name
    else:
        broken = video_annotations(videos)
        broken["videos"][0]["file_names"][case.missing] = name
    return write(broken, videos.folder / f"missing_{case.missing}_{layout}")


#: Layouts of annotations that the videos come with, the one to be preferred first.
_LAYOUTS = {VIDEO_ANNOTATIONS: "COCO-video", IMAGE_ANNOTATIONS: "COCO, an image a frame"}


@lru_cache(maxsize=8)
def _refused_layouts(target: Target) -> Mapping[str, str]:
    """The layouts of annotations that a target's loader fails on, with the error."""
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    if node is None:
        return {VIDEO_ANNOTATIONS: "sam3's default is for images"}
    folder, refused = videos_of(Loading().spec()).folder, {}
    for layout in _LAYOUTS:
        try:
            with captured():
                instantiate(node)(str(folder / layout)).getDatapointIds()
        except Exception as error:  # whatever a loader says of what it was not made for
            refused[layout] = why(error, "")
    return refused


def layout_of(target: Target) -> str:
    """Which layout of annotations a target's loader reads; one reads some where ``lacks_data_path`` gives None."""
    return next(layout for layout in _LAYOUTS if layout not in _refused_layouts(target))


def loader_name(target: Target) -> str:
    """What reads the target's annotations, as a finding names it."""
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    return "COCO_FROM_JSON (sam3's default, for single images)" if node is None else str(node["_target_"])


class NoClip(Exception):
    """A data path raised where a clip was asked for; the cause is what it raised."""


def why(error: BaseException, printed: str) -> str:
    """Say in one line why a data path failed; ``printed`` is what was caught meanwhile."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    said = [line.removeprefix("Exception: ") for line in printed.splitlines() if line.startswith("Exception: ")]
    return f"{text} ({said[0]})" if said else text


def _normalisation(node: Any) -> tuple[Any, Any] | None:
    """Find what transforms normalise images with: the first mean and standard deviation in their configuration."""
    if isinstance(node, dict):
        if "mean" in node and "std" in node:
            return node["mean"], node["std"]
        node = list(node.values())
    if isinstance(node, list):
        return next((found for value in node if (found := _normalisation(value))), None)
    return None


@dataclass(frozen=True)
class _Path:
    """A data path that is set up: dataset, collator, and what images are normalised with."""

    dataset: Any
    collate: Any
    mean: torch.Tensor
    std: torch.Tensor

    def batch(self, *datapoints: Any) -> Arrived:
        """Collate clips and read the batch, which is the only value of what sam3's collators give."""
        (batch,) = self.collate([*datapoints]).values()
        return read_batch(batch, self.mean, self.std)

    def clips(self) -> tuple[Arrived, ...]:
        """Every clip by itself."""
        return tuple(self.batch(self.dataset[index]) for index in range(len(self.dataset)))


def _marked(datapoint: Any, video: int | None) -> Any:
    """A datapoint whose texts say which video they came with: two clips may well ask for the same."""
    for query in datapoint.find_queries:
        query.query_text = f"{query.query_text} in video {video}"
    return datapoint


def _set_up(data: DictConfig, dataset: Any = None) -> _Path:
    transforms = OmegaConf.to_container(data.dataset.transforms, resolve=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _normalisation(transforms) or ([MEAN] * 3, [STD] * 3))
    made = instantiate(data.dataset) if dataset is None else dataset
    return _Path(made, instantiate(data.collate_fn), mean, std)


def _announce(dataset: Any, epoch: int) -> None:
    """Tell a dataset the epoch, as sam3's TorchDataset does where it has a method for that."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)


def clips_of(target: Target, case: Loading, together: bool = False) -> tuple[Arrived, ...]:
    """Load every clip of a case by itself, or a clip of each video ``together`` in one batch.

    Raises:
        NoClip: in one line, where the data path fails.
    """
    with captured() as written:
        try:
            path = _set_up(dataset_config(target, case))
            _announce(path.dataset, case.epoch)
            clips = path.clips()
            if not together:
                return clips
            shown = [clip.images[0] for clip in clips]
            videos = [None if image is None else image.video for image in shown]
            first = sorted(videos.index(video) for video in set(videos))
            return (path.batch(*(_marked(path.dataset[index], videos[index]) for index in first)),)
        except Exception as error:
            raise NoClip(why(error, written.getvalue())) from error


def epochs_of(target: Target, case: Loading, epochs: int) -> tuple[tuple[Arrived, ...], ...]:
    """Load every clip in each of several epochs as workers of a data loader do: from a copy of the dataset.

    Raises:
        NoClip: in one line, where the data path fails.
    """
    with captured() as written:
        try:
            config = dataset_config(target, case, size=SIZE[1])  # enough to tell frames apart
            config.shuffle = False
            config.enable_distributed_sampler = False
            data = instantiate(config)
            path, seen = _set_up(config, data.dataset), []
            for epoch in range(epochs):
                data.get_loader(epoch)
                seen.append(replace(path, dataset=copy.deepcopy(path.dataset)).clips())
            return tuple(seen)
        except Exception as error:
            raise NoClip(why(error, written.getvalue())) from error
