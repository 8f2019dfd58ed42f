"""Reading COCO-video annotations into what sam3's ``VideoGroundingDataset`` asks of its ``coco_json_loader``.

The layout is that of YouTube-VIS (https://youtube-vos.org/dataset/vis/): a JSON object of

- ``videos``: ``id``, ``width``, ``height`` (pixels), ``length`` (frames), ``file_names`` (a path a frame, below the
  image folder);
- ``annotations``, one an object: ``id``, ``video_id``, ``category_id``, ``bboxes`` (for each frame left, top, width and
  height in pixels, or null where the object is absent), optionally ``segmentations`` (for each frame a compressed or
  plain run-length mask, a list of polygons, or null) and ``iscrowd``;
- ``categories``: ``id``, ``name``. The name is the text that is asked for.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as rle


class BadAnnotations(Exception):
    """An annotation file cannot be used; the message names the file and the entry."""


def _segmentation(value: Any, height: int, width: int) -> Any:
    """Give a mask as compressed run lengths, of the frame's size."""
    if isinstance(value, Mapping):
        size, counts = list(value["size"]), value["counts"]
        if size != [height, width]:
            raise ValueError(f"it is of size {size}, the video's frames are of [{height}, {width}]")
        if not isinstance(counts, list):
            return dict(value)
        # pycocotools reads on in memory where runs do not add up.
        if sum(counts) != height * width:
            raise ValueError(f"its runs add up to {sum(counts)} pixels of {height * width}")
        return rle.frPyObjects(dict(value), height, width)
    return rle.merge(rle.frPyObjects(value, height, width))


class CocoVideo:
    """COCO-video annotations, as clips: a datapoint is a video and a chunk of the categories.

    Every frame of a datapoint is asked for every category of its chunk, in one order, so that all stages have the
    same queries; where no object of a category is seen, the query expects none (a negative).

    Args:
        annotation_file: path of the JSON file.
        prompts: texts to ask for in place of categories' names, by category id.
        include_negatives: also ask for categories of which a video has no object at all; else only for those that are
            seen in one of its frames.
        category_chunk_size: most categories asked for in a clip; all by default.

    Numbers of datapoints run from 0. Queries and annotations of one carry as ``image_id`` the number of the frame in
    its video, boxes are left, top, width, height in parts of the frame, masks are compressed run lengths, areas are in
    parts of the frame; ``object_id`` is the same for an object in all frames. A box is cut at the frame's borders; an
    object of which nothing lies inside is absent.

    Raises:
        BadAnnotations: when the file cannot be read or does not hold what the layout asks for.
    """

    def __init__(
        self,
        annotation_file: str | Path,
        prompts: Mapping[int, str] | None = None,
        include_negatives: bool = True,
        category_chunk_size: int | None = None,
    ) -> None:
        self._file = annotation_file
        try:
            data = json.loads(Path(annotation_file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadAnnotations(f"{annotation_file}: cannot be read as JSON: {error}") from None
        for part in ("videos", "annotations", "categories"):
            if not isinstance(data, dict) or not isinstance(data.get(part), list):
                of_images = isinstance(data, dict) and "images" in data
                hint = " (COCO annotations of single images make no clips)" if of_images else ""
                raise BadAnnotations(f"{annotation_file}: holds no list of {part!r}{hint}")
        if category_chunk_size is not None and category_chunk_size < 1:
            raise ValueError(f"category_chunk_size is {category_chunk_size}: expected at least 1")
        texts = {
            self._id(entry, "id", "category"): str(self._of(entry, "name", "category")) for entry in data["categories"]
        }
        self._texts = (
            texts if prompts is None else {number: prompts.get(number, text) for number, text in texts.items()}
        )
        self._videos = [self._video(entry) for entry in data["videos"]]
        if not self._videos:
            raise BadAnnotations(f"{annotation_file}: holds no video")
        for part in ("videos", "categories"):
            twice = [number for number, count in Counter(entry["id"] for entry in data[part]).items() if count > 1]
            if twice:
                raise self._fail(f"two {part} have the id {twice[0]}")
        self._objects: dict[int, list[dict[str, Any]]] = {video["id"]: [] for video in self._videos}
        by_id = {video["id"]: video for video in self._videos}
        for entry in data["annotations"]:
            self._add(entry, by_id)
        self._datapoints: list[tuple[dict[str, Any], list[int]]] = []
        for video in self._videos:
            seen = {
                entry["category_id"]
                for entry in self._objects[video["id"]]
                if any(_in_parts(box, video["width"], video["height"]) for box in entry["bboxes"])
            }
            asked = [number for number in sorted(texts) if include_negatives or number in seen]
            size = category_chunk_size or max(1, len(asked))
            self._datapoints += [(video, asked[start : start + size]) for start in range(0, len(asked), size)]
        if not self._datapoints:
            nothing = "holds no category" if include_negatives else "holds no object that is seen in a video"
            raise self._fail(f"{nothing}: there is nothing to ask for")

    def _fail(self, what: str) -> BadAnnotations:
        return BadAnnotations(f"{self._file}: {what}")

    def _of(self, entry: Any, key: str, what: str) -> Any:
        if not isinstance(entry, dict) or key not in entry:
            number = entry.get("id", "?") if isinstance(entry, dict) else entry
            raise self._fail(f"{what} {number} has no {key!r}")
        return entry[key]

    def _id(self, entry: Any, key: str, what: str) -> int:
        number = self._of(entry, key, what)
        if not isinstance(number, int):
            raise self._fail(f"{what} {entry.get('id', '?')}: {key} is {number!r}, expected a whole number")
        return number

    def _video(self, entry: Any) -> dict[str, Any]:
        names = self._of(entry, "file_names", "video")
        for key in ("id", "width", "height"):
            if self._id(entry, key, "video") < (key != "id"):
                raise self._fail(f"video {entry['id']}: {key} is {entry[key]}, expected at least {int(key != 'id')}")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._fail(f"video {entry['id']} lists no file_names")
        if entry.get("length", len(names)) != len(names):
            raise self._fail(f"video {entry['id']} says length {entry['length']} and lists {len(names)} file_names")
        return entry

    def _add(self, entry: Any, videos: Mapping[int, dict[str, Any]]) -> None:
        video = videos.get(self._id(entry, "video_id", "annotation"))
        if video is None:
            raise self._fail(f"annotation {entry.get('id', '?')}: there is no video {entry['video_id']}")
        if self._id(entry, "category_id", "annotation") not in self._texts:
            raise self._fail(f"annotation {entry.get('id', '?')}: there is no category {entry['category_id']}")
        frames = len(video["file_names"])
        for key in ("bboxes", "segmentations"):
            values = self._of(entry, key, "annotation") if key == "bboxes" else entry.get(key)
            if values is not None and (not isinstance(values, list) or len(values) != frames):
                count = len(values) if isinstance(values, list) else "no list"
                where = f"annotation {entry.get('id', '?')}"
                raise self._fail(f"{where}: {key} has {count} for the {frames} frames of video {video['id']}")
        for frame, box in enumerate(entry["bboxes"]):
            if box is not None and not _is_box(box):
                raise self._fail(f"annotation {entry.get('id', '?')}, frame {frame}: {box!r} is no box [x, y, w, h]")
        self._objects[video["id"]].append(entry)

    def getDatapointIds(self) -> list[int]:
        return list(range(len(self._datapoints)))

    def loadImagesFromDatapoint(self, idx: int) -> list[dict[str, Any]]:
        """Give a datapoint's frames in time order: ``id`` (the frame's number), ``file_name``, size in pixels."""
        video, _ = self._datapoints[idx]
        return [
            {
                "id": frame,
                "file_name": name,
                "width": video["width"],
                "height": video["height"],
                "original_img_id": video["id"],
                "coco_img_id": video["id"],
            }
            for frame, name in enumerate(video["file_names"])
        ]

    def loadQueriesAndAnnotationsFromDatapoint(self, idx: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Queries (a frame and a category each, frame by frame) and annotations (a frame and an object each)."""
        video, asked = self._datapoints[idx]
        annotations: list[dict[str, Any]] = []
        expected: dict[tuple[int, int], list[int]] = {}
        for number, entry in enumerate(self._objects[video["id"]]):
            if entry["category_id"] not in asked:
                continue
            masks = entry.get("segmentations") or [None] * len(entry["bboxes"])
            for frame, (box, mask) in enumerate(zip(entry["bboxes"], masks, strict=True)):
                inside = _in_parts(box, video["width"], video["height"])
                if inside is None:
                    continue
                annotation = {
                    "id": len(annotations),
                    "image_id": frame,
                    "frame_index": frame,
                    "object_id": number,
                    "bbox": torch.tensor(inside, dtype=torch.float32),
                    "area": inside[2] * inside[3],
                    "is_crowd": entry.get("iscrowd", 0),
                }
                if mask:
                    try:
                        annotation["segmentation"] = _segmentation(mask, video["height"], video["width"])
                    except Exception as error:  # pycocotools raises no class of its own
                        where = f"annotation {entry.get('id', '?')}, frame {frame}"
                        raise self._fail(f"{where}: the mask cannot be used: {error}") from None
                expected.setdefault((frame, entry["category_id"]), []).append(len(annotations))
                annotations.append(annotation)
        queries: list[dict[str, Any]] = []
        for frame in range(len(video["file_names"])):
            for category in asked:
                queries.append(
                    {
                        "id": len(queries),
                        "original_cat_id": category,
                        "query_text": self._texts[category],
                        "query_processing_order": frame,
                        "image_id": frame,
                        "object_ids_output": expected.get((frame, category), []),
                        "is_exhaustive": True,
                        "input_box": None,
                        "input_box_label": None,
                        "input_points": None,
                        "ptr_x_query_id": None,
                        "ptr_y_query_id": None,
                    }
                )
        return queries, annotations


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 4
        and all(isinstance(number, (int, float)) and math.isfinite(number) for number in value)
    )


def _in_parts(box: Sequence[float] | None, width: int, height: int) -> tuple[float, float, float, float] | None:
    """Cut a box at the frame's borders and give it in parts of the frame, or None where nothing is left."""
    if box is None:
        return None
    left, top = max(0.0, box[0]), max(0.0, box[1])
    right, bottom = min(float(width), box[0] + box[2]), min(float(height), box[1] + box[3])
    if right <= left or bottom <= top:
        return None
    return left / width, top / height, (right - left) / width, (bottom - top) / height
