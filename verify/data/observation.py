"""The data path of a target, set up and run: the clips of a case, together, and epoch by epoch."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fixtures.synthetic.videos import IMAGE_ANNOTATIONS, SIZE, Videos, image_annotations, video_annotations, write
from fixtures.trainer import MEAN, STD, plain_transforms, train_on
from verify.configuration.configured import configuration_of, loads_masks, taken_by, takes
from verify.configuration.reading import captured_text, layout_of, masks_read, one_line_reason
from verify.configuration.videos import videos_of
from verify.data.batch import Arrived, read_batch
from verify.data.case import Loading
from verify.data.copying import worker_copy
from verify.engine.finding import NotCovered
from verify.target.naming import Target

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
    videos = _videos(target, case)
    dataset = config.trainer.data.train.dataset
    masks = case.masks or (case.own_transforms and loads_masks(target))  # which its transforms may need
    options: dict[str, Any] = {
        "num_stages_sample": case.stages,
        "stage_stride_min": case.stride_min,
        "stage_stride_max": case.stride_max,
        "random_reverse_time_axis": case.reverse,
        **taken_by(target, load_segmentation=masks),
        "transforms": _adapted(OmegaConf.to_container(dataset.transforms, resolve=True), "", case)
        if case.own_transforms
        else plain_transforms(size),
    }
    if case.max_query_num > 0 or "max_query_num" in dataset:  # a limit of its own is not what is looked at
        options["max_query_num"] = case.max_query_num
    if case.tiling:
        options["is_tiling_single_image"] = True
    train_on(config, videos.folder, _annotations(target, case), **options)
    data = config.trainer.data.train
    if "with_seg_masks" in data.collate_fn:
        data.collate_fn.with_seg_masks = masks
    return data


def _videos(target: Target, case: Loading) -> Videos:
    """The videos of a case; their annotations hold masks as the target reads them, where the case does not say how."""
    spec = case.spec()
    return videos_of(spec if case.mask_layout else replace(spec, masks=masks_read(target)))


def _annotations(target: Target, case: Loading) -> Path:
    """The file of annotations for a target's loader: COCO-video, or an image a frame where it reads only those."""
    videos, layout = _videos(target, case), layout_of(target)
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


class NoClip(Exception):
    """A data path raised where a clip was asked for; the cause is what it raised."""


def _normalisation(node: Any) -> tuple[Any, Any] | None:
    """Find what transforms normalise images with: the first mean and standard deviation in their configuration."""
    if isinstance(node, dict):
        if "mean" in node and "std" in node:
            return node["mean"], node["std"]
        node = list(node.values())
    if isinstance(node, list):
        return next((found for value in node if (found := _normalisation(value))), None)
    return None


#: So many times is a collator that parts what it is given into several batches given each clip, at most.
_MOST_COPIES = 8


def _repeated(datapoints: Sequence[Any]) -> Iterator[list[Any]]:
    """Datapoints once, twice, and so on: whole rounds of them, or each several times in a row."""
    yield [*datapoints]
    for copies in range(2, _MOST_COPIES + 1):
        yield [copy.deepcopy(datapoint) for _ in range(copies) for datapoint in datapoints]
        if len(datapoints) > 1:
            yield [copy.deepcopy(datapoint) for datapoint in datapoints for _ in range(copies)]


@dataclass(frozen=True)
class _Path:
    """A data path that is set up: dataset, collator, and what images are normalised with."""

    dataset: Any
    collate: Any
    mean: torch.Tensor
    std: torch.Tensor
    #: What the configuration names as collator.
    collator: str

    def batch(self, datapoints: Sequence[Any], images_of: Sequence[int | None] | None = None) -> Arrived:
        """Collate clips and read the batch, which is the only value of what sam3's collators give.

        sam3's Trainer takes a list of batches, too, to accumulate gradients over them. A collator that makes one may
        fail on fewer clips than it makes batches, so it is given more: copies of the same. Read is a batch of as many
        images as the clips have, and ``images_of`` the same videos where that is said.

        Raises:
            NotCovered: where no such batch is made.
        """
        first: Exception | None = None
        for given in _repeated(datapoints):
            try:
                collated = self.collate(given)
            except Exception as error:
                first = first or error
                continue
            if isinstance(collated, Mapping) and len(given) == len(datapoints):
                return self._read(collated)
            for part in collated if isinstance(collated, (list, tuple)) else [collated]:
                if part and self._holds(batch := self._read(part), datapoints, images_of):
                    return batch
            first = first or NotCovered(f"{self.collator} makes several batches, and none of exactly what is looked at")
        assert first is not None
        raise first

    def _read(self, collated: Mapping[str, Any]) -> Arrived:
        (batch,) = collated.values()
        return read_batch(batch, self.mean, self.std)

    @staticmethod
    def _holds(batch: Arrived, datapoints: Sequence[Any], images_of: Sequence[int | None] | None) -> bool:
        if images_of is not None:
            return Counter(shown and shown.video for shown in batch.images) == Counter(images_of)
        return len(batch.images) == sum(len(datapoint.images) for datapoint in datapoints)

    def clips(self) -> tuple[Arrived, ...]:
        """Every clip by itself."""
        return tuple(self.batch([self.dataset[index]]) for index in range(len(self.dataset)))


def _marked(datapoint: Any, video: int | None) -> Any:
    """A datapoint whose texts say which video they came with: two clips may well ask for the same."""
    for query in datapoint.find_queries:
        query.query_text = f"{query.query_text} in video {video}"
    return datapoint


def _set_up(data: DictConfig, dataset: Any = None) -> _Path:
    transforms = OmegaConf.to_container(data.dataset.transforms, resolve=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _normalisation(transforms) or ([MEAN] * 3, [STD] * 3))
    made = instantiate(data.dataset) if dataset is None else dataset
    return _Path(made, instantiate(data.collate_fn), mean, std, str(data.collate_fn["_target_"]))


def _announce(dataset: Any, epoch: int) -> None:
    """Tell a dataset the epoch, as sam3's TorchDataset does where it has a method for that."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)


def clips_of(target: Target, case: Loading, together: bool = False) -> tuple[Arrived, ...]:
    """Load every clip of a case by itself, or a clip of each video ``together`` in one batch.

    Raises:
        NoClip: in one line, where the data path fails.
        NotCovered: where its collator gives no batch of exactly these clips.
    """
    with captured_text() as written:
        try:
            path = _set_up(dataset_config(target, case))
            _announce(path.dataset, case.epoch)
            clips = path.clips()
            if not together:
                return clips
            shown = [clip.images[0] for clip in clips]
            videos = [None if image is None else image.video for image in shown]
            first = sorted(videos.index(video) for video in set(videos))
            images_of = [videos[index] for index in first for _ in clips[index].images]
            return (path.batch([_marked(path.dataset[index], videos[index]) for index in first], images_of),)
        except NotCovered:
            raise
        except Exception as error:
            raise NoClip(one_line_reason(error, written.getvalue())) from error


#: How clips are loaded in this process alone, where a part of the configuration that loads them has such options.
_ALONE = {"shuffle": False, "num_workers": 0, "enable_distributed_sampler": False}


def _dataset_of(data: Any, epoch: int) -> Any:
    """The dataset of the loader that sam3's Trainer would be given for an epoch."""
    loader = data.get_loader(epoch)
    dataset = getattr(loader, "dataset", getattr(data, "dataset", None))
    if dataset is None:
        raise NotCovered(f"neither {type(data).__name__} nor its loader says which dataset it loads")
    return dataset


def epochs_of(target: Target, case: Loading, epochs: int) -> tuple[tuple[Arrived, ...], ...]:
    """Load every clip in each of several epochs as workers of a data loader do: from a copy of the dataset.

    Raises:
        NoClip: in one line, where the data path fails.
        NotCovered: where its collator gives no batch of exactly these clips.
    """
    with captured_text() as written:
        try:
            config = dataset_config(target, case, size=SIZE[1])  # enough to tell frames apart
            for option, value in _ALONE.items():
                if takes(config["_target_"], option):
                    config[option] = value
            data = instantiate(config)
            path = _set_up(config, _dataset_of(data, 0))
            return tuple(
                replace(path, dataset=worker_copy(_dataset_of(data, epoch))).clips() for epoch in range(epochs)
            )
        except NotCovered:
            raise
        except Exception as error:
            raise NoClip(one_line_reason(error, written.getvalue())) from error
