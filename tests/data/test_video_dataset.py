"""Clips follow from seed, epoch and number, or are refused by name; sam3's own dataset shows what is mended."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from sam3.train.data.sam3_video_dataset import VideoGroundingDataset
from torch.utils.data import DataLoader

from fixtures.synthetic.videos import SIZE, VIDEO_ANNOTATIONS, Videos, VideoSpec, look_at, make_videos, write
from fixtures.trainer import plain_transforms
from reference.data.coco_video import CocoVideo
from reference.data.video_dataset import UnusableClip, VideoClips

SPEC = VideoSpec(videos=3, frames=8, objects=3)
FRAMES = 3


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return make_videos(tmp_path_factory.mktemp("videos"), SPEC)


def options(videos: Videos, **others: Any) -> dict[str, Any]:
    return {
        "img_folder": f"{videos.folder}/",
        "ann_file": str(videos.folder / VIDEO_ANNOTATIONS),
        "coco_json_loader": CocoVideo,
        "transforms": [instantiate(node) for node in plain_transforms(56)],
        "load_segmentation": True,
        "num_stages_sample": FRAMES,
        "stage_stride_max": 3,
        "max_ann_per_img": 50,
        "max_train_queries": 50,
        "multiplier": 1,
        "training": True,
        **others,
    }


def clips(videos: Videos, **others: Any) -> VideoClips:
    return VideoClips(**options(videos, **others))


def frames(datapoint: Any) -> list[tuple[int, int]]:
    """Which frames of which video the images show."""
    shown = [look_at(image.data * 0.5 + 0.5) for image in datapoint.images]
    return [(seen.video, seen.frame) for seen in shown if seen is not None]


def texts(datapoint: Any) -> list[list[str]]:
    """The texts asked for, stage by stage."""
    stages: dict[int, list[str]] = {}
    for query in datapoint.find_queries:
        stages.setdefault(query.query_processing_order, []).append(query.query_text)
    return [stages[number] for number in sorted(stages)]


def alone(folder: Path, spec: VideoSpec = SPEC) -> Videos:
    """Videos of a test's own, to be spoilt."""
    return make_videos(folder, spec)


# What is drawn


class Noise:
    """Adds noise from each of the global generators."""

    def __call__(self, datapoint: Any, **_: Any) -> Any:
        for image in datapoint.images:
            image.data = image.data + (torch.rand(1) + random.random() + np.random.rand()) / 1000
        return datapoint


def _same(first: Any, second: Any) -> bool:
    return frames(first) == frames(second) and all(
        torch.equal(one.data, other.data) for one, other in zip(first.images, second.images, strict=True)
    )


def test_a_clip_follows_from_seed_epoch_and_number_alone(videos: Videos) -> None:
    noisy = options(videos)["transforms"] + [Noise()]
    first, second = clips(videos, transforms=noisy), clips(videos, transforms=noisy)
    for epoch in range(2):
        first.set_epoch(epoch)
        second.set_epoch(epoch)
        forwards = [first[number] for number in range(len(first))]
        random.seed(epoch)
        np.random.seed(epoch + 1)
        torch.manual_seed(epoch + 2)
        backwards = [second[number] for number in reversed(range(len(second)))][::-1]
        assert all(map(_same, forwards, backwards))
        assert all(map(_same, forwards, [first[number] for number in range(len(first))]))


def test_another_epoch_or_seed_draws_other_clips(videos: Videos) -> None:
    dataset = clips(videos)
    by_epoch = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        by_epoch.append([frames(dataset[number]) for number in range(len(dataset))])
    by_seed = [
        [frames(data[number]) for number in range(len(data))] for data in (clips(videos, seed=s) for s in (1, 2))
    ]
    drawn = [str(found) for found in (*by_epoch, *by_seed)]
    assert len(set(drawn)) == len(drawn)
    assert all(len(clip) == FRAMES for found in by_epoch for clip in found)
    assert all({number} == {video for video, _ in clip} for found in by_epoch for number, clip in enumerate(found))


@pytest.mark.xdist_group("processes")
def test_workers_draw_what_this_process_draws(videos: Videos) -> None:
    dataset = clips(videos)
    dataset.set_epoch(3)
    expected = [frames(dataset[number]) for number in range(len(dataset))]
    loader = DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=frames, shuffle=False)
    assert list(loader) == expected


def test_global_generators_are_left_as_they_were(videos: Videos) -> None:
    dataset = clips(videos, transforms=options(videos)["transforms"] + [Noise()])

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = [drawn(), drawn()]
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    found = [drawn()]
    assert dataset[0] is not None
    with pytest.raises(UnusableClip):
        clips(videos, max_train_queries=1)[0]
    found.append(drawn())
    assert found == expected


# What is refused


def test_videos_shorter_than_a_clip_are_refused_at_once(tmp_path: Path, videos: Videos) -> None:
    message = rf"3 of 3 clips have fewer than num_stages_sample=9 frames \(video {videos.video_id(0)} has 8\)"
    with pytest.raises(UnusableClip, match=message) as caught:
        clips(videos, num_stages_sample=9)
    assert VIDEO_ANNOTATIONS in str(caught.value)
    data = json.loads((videos.folder / VIDEO_ANNOTATIONS).read_text())
    data["annotations"] = []
    for number, length in ((1, 4), (2, 2)):
        entry = data["videos"][number]
        entry |= {"length": length, "file_names": entry["file_names"][:length]}
    short = write(data, tmp_path / "short.json")
    says = rf"2 of 3 clips have fewer .*=5 frames \(video {videos.video_id(1)} has 4\)"
    with pytest.raises(UnusableClip, match=says):
        clips(videos, num_stages_sample=5, ann_file=str(short))
    assert len(clips(videos, num_stages_sample=5, ann_file=str(short), training=False)) == 3


def _remove(path: Path) -> None:
    path.unlink()


def _fill_with_text(path: Path) -> None:
    path.write_text("no image")


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_remove, "No such file"),
        (_fill_with_text, "cannot identify image file"),
        (_cut_off, "image file is truncated"),
    ],
)
def test_a_frame_that_cannot_be_read_is_named(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    videos = alone(tmp_path, VideoSpec(videos=2, frames=2, objects=1))
    spoil(tmp_path / videos.file_name(0, 1))
    dataset = clips(videos, num_stages_sample=2)
    name = re.escape(videos.file_name(0, 1))
    with pytest.raises(
        UnusableClip, match=rf"frame 1 of video {videos.video_id(0)} cannot be read: .*{name}: .*({says})"
    ):
        dataset[0]
    assert len(frames(dataset[1])) == 2


def test_an_image_of_another_size_than_annotated_is_named(tmp_path: Path) -> None:
    videos = alone(tmp_path, VideoSpec(videos=1, frames=2, objects=1))
    Image.new("RGB", (SIZE[1], SIZE[0])).save(tmp_path / videos.file_name(0, 0))
    message = re.escape(f"{videos.file_name(0, 0)} is of {SIZE[::-1]} pixels, annotated for {SIZE}")
    with pytest.raises(UnusableClip, match=message):
        clips(videos, num_stages_sample=2)[0]


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"max_train_queries": 8}, r"9 queries \(frames times categories\) are more than max_train_queries=8"),
        ({"max_val_queries": 23, "training": False}, r"24 queries .* more than max_val_queries=23"),
        ({"max_ann_per_img": 1}, "2 objects for one query are more than max_ann_per_img=1"),
        ({"max_masklet_num_in_video": 3}, "4 objects are more than max_masklet_num_in_video=3"),
    ],
)
def test_limits_are_refused_by_name(tmp_path: Path, limit: dict[str, Any], says: str) -> None:
    videos = alone(tmp_path, VideoSpec(videos=1, frames=8, objects=4, always_there=True))
    with pytest.raises(UnusableClip, match=f"^video {videos.video_id(0)} of .*{VIDEO_ANNOTATIONS}: {says}"):
        clips(videos, **limit)[0]


class DropsFromAStage:
    """Drops queries of the second stage: one, or all."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, datapoint: Any, **_: Any) -> Any:
        second = [query for query in datapoint.find_queries if query.query_processing_order == 1][: self.count]
        datapoint.find_queries = [query for query in datapoint.find_queries if query not in second]
        return datapoint


class DropsAFrame:
    """Drops the last frame with its queries."""

    def __call__(self, datapoint: Any, **_: Any) -> Any:
        datapoint.images.pop()
        last = FRAMES - 1
        datapoint.find_queries = [query for query in datapoint.find_queries if query.query_processing_order < last]
        return datapoint


class Fails:
    """Fails as sam3's transforms do."""

    def __call__(self, datapoint: Any, **_: Any) -> Any:
        raise AssertionError("no query is left")


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (DropsFromAStage(1), "3 frames and 3 stages are left of 3, with queries stage 0: 3, stage 1: 2, stage 2: 3"),
        (DropsFromAStage(3), "3 frames and 2 stages are left of 3, with queries stage 0: 3, stage 2: 3"),
        (DropsAFrame(), "2 frames and 2 stages are left of 3"),
        (Fails(), "Fails failed: no query is left"),
    ],
)
def test_a_transform_that_leaves_stages_uneven_is_refused(videos: Videos, transform: Any, says: str) -> None:
    with pytest.raises(UnusableClip, match=rf"^video {videos.video_id(1)} of .*{VIDEO_ANNOTATIONS}: .*{says}"):
        clips(videos, transforms=[transform])[1]


# Query limit and tiling


def test_the_query_limit_keeps_the_same_texts_in_each_stage(videos: Videos) -> None:
    dataset = clips(videos, max_query_num=2)
    kept = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        stages = texts(dataset[0])
        assert len(stages) == FRAMES
        assert len(stages[0]) == 2
        assert stages.count(stages[0]) == FRAMES
        kept.add(tuple(stages[0]))
    assert len(kept) > 1
    assert texts(clips(videos, max_query_num=3)[0])[0] == texts(clips(videos)[0])[0]


def test_tiling_repeats_one_image(tmp_path: Path, videos: Videos) -> None:
    single = alone(tmp_path, VideoSpec(videos=2, frames=1, objects=3, always_there=True))
    datapoint = clips(single, is_tiling_single_image=True)[1]
    assert frames(datapoint) == [(1, 0)] * FRAMES
    assert texts(datapoint).count(texts(datapoint)[0]) == FRAMES
    boxes = [torch.stack([item.bbox for item in image.objects]) for image in datapoint.images]
    assert all(torch.equal(found, boxes[0]) for found in boxes)
    assert [{item.frame_index for item in image.objects} for image in datapoint.images] == [{0}, {1}, {2}]
    assert [query.image_id for query in datapoint.find_queries] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(UnusableClip, match=r"is_tiling_single_image repeats single images, and a video of .* 8 frames"):
        clips(videos, is_tiling_single_image=True)[0]


# sam3's own dataset: an override that is not needed any more shows here


def sams_own(videos: Videos, **others: Any) -> VideoGroundingDataset:
    return VideoGroundingDataset(**options(videos, **others))


def test_sams_own_query_limit_and_tiling_fail(tmp_path: Path, videos: Videos) -> None:
    with pytest.raises(AttributeError, match="get_queries"):
        sams_own(videos, max_query_num=2)[0]
    single = alone(tmp_path, VideoSpec(videos=1, frames=1, objects=2))
    with pytest.raises(AttributeError, match="ptr_x"):
        sams_own(single, is_tiling_single_image=True)[0]


@pytest.mark.parametrize("spoil", [_remove, _fill_with_text])
def test_sams_own_replaces_a_clip_that_cannot_be_read(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    videos = alone(tmp_path, VideoSpec(videos=2, frames=2, objects=1))
    spoil(tmp_path / videos.file_name(0, 1))
    assert {video for video, _ in frames(sams_own(videos, num_stages_sample=2)[0])} == {1}


def test_sams_own_replaces_a_clip_that_is_too_short_or_has_too_many_objects(tmp_path: Path) -> None:
    videos = alone(tmp_path, VideoSpec(videos=2, frames=2, objects=2, always_there=True))
    data = json.loads((tmp_path / VIDEO_ANNOTATIONS).read_text())
    data["annotations"].pop()
    write(data, tmp_path / VIDEO_ANNOTATIONS)
    limited = sams_own(videos, num_stages_sample=2, max_masklet_num_in_video=1)
    assert {video for video, _ in frames(limited[0])} == {1}
    data["videos"][0] |= {"length": 1, "file_names": data["videos"][0]["file_names"][:1]}
    data["annotations"] = [entry for entry in data["annotations"] if entry["video_id"] == videos.video_id(1)]
    write(data, tmp_path / VIDEO_ANNOTATIONS)
    assert {video for video, _ in frames(sams_own(videos, num_stages_sample=2)[0])} == {1}


def test_sams_own_does_not_see_another_size(tmp_path: Path) -> None:
    videos = alone(tmp_path, VideoSpec(videos=1, frames=2, objects=1))
    for frame in range(2):
        Image.new("RGB", (2 * SIZE[0], SIZE[1])).save(tmp_path / videos.file_name(0, frame))
    (first, *_) = sams_own(videos, num_stages_sample=2, transforms=[])[0].images
    assert first.size == (SIZE[1], 2 * SIZE[0])


def test_sams_own_is_not_told_the_epoch_and_depends_on_the_order(videos: Videos) -> None:
    first, second = sams_own(videos), sams_own(videos)
    drawn = []
    for epoch, dataset in enumerate((first, second)):
        dataset.set_epoch(epoch)
        drawn.append([frames(dataset[number]) for number in range(len(dataset))])
    assert drawn[0] == drawn[1]
    again = [[frames(second[number]) for number in range(len(second))] for _ in range(3)]
    assert any(found != drawn[1] for found in again)
