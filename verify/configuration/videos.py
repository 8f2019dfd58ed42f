"""Synthetic videos on disk, drawn once a process, in the layouts of annotations that a loader may read."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from fixtures.synthetic.videos import IMAGE_ANNOTATIONS, VIDEO_ANNOTATIONS, Videos, VideoSpec, make_videos


@lru_cache(maxsize=16)
def _folder(spec: VideoSpec) -> tuple[tempfile.TemporaryDirectory[str], Videos]:
    held = tempfile.TemporaryDirectory(prefix="videos-")
    return held, make_videos(Path(held.name), spec)


def videos_of(spec: VideoSpec) -> Videos:
    """Videos on disk, drawn once a process."""
    return _folder(spec)[1]


#: What a loader is tried with where there is no case yet: to see which layout it reads, so with ids that none stumbles
#: over. What it makes of others is a matter for the checks.
SAMPLE = VideoSpec(videos=2, frames=12, objects=3, mixed=True, counted=True)
#: Layouts of annotations that the videos come with, the one to be preferred first.
LAYOUTS = {VIDEO_ANNOTATIONS: "COCO-video", IMAGE_ANNOTATIONS: "COCO, an image a frame"}
