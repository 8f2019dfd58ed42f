"""What loading clips costs: the corrected data path, and sam3's own dataset of single images, on the same frames.

    python -m benchmarks.loading

Prints clips a second of one worker (four frames of 96 x 72 pixels each, PNG files, resized to 56), and the frames a
second of that and of sam3's image dataset with the same transforms, side by side.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from sam3.train.data.sam3_image_dataset import Sam3ImageDataset

from fixtures.synthetic.videos import IMAGE_ANNOTATIONS, VIDEO_ANNOTATIONS, VideoSpec, make_videos
from fixtures.toy.shrink import IMAGE_SIZE
from fixtures.trainer import plain_transforms
from reference.data.coco_video import CocoVideo
from reference.data.video_dataset import VideoClips

FRAMES = 4
SECONDS = 5.0


def items_a_second(dataset: Any) -> float:
    """Load items one after the other for some seconds."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        dataset[count % len(dataset)]
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_videos(Path(folder), VideoSpec(videos=8, frames=16))
        common = {
            "img_folder": folder,
            "transforms": instantiate(plain_transforms(IMAGE_SIZE), _convert_="all"),
            "max_ann_per_img": 500,
            "multiplier": 1,
            "training": True,
            "max_train_queries": 5000,
            "load_segmentation": True,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            clips = VideoClips(
                ann_file=f"{folder}/{VIDEO_ANNOTATIONS}", coco_json_loader=CocoVideo, num_stages_sample=FRAMES, **common
            )
            images = Sam3ImageDataset(ann_file=f"{folder}/{IMAGE_ANNOTATIONS}", **common)
        rate, single = items_a_second(clips), items_a_second(images)
    print(f"{rate:.0f} clips of {FRAMES} frames a second and worker: {rate * FRAMES:.0f} frames a second")
    print(f"{single:.0f} single images a second, by sam3's image dataset")


if __name__ == "__main__":
    main()
