"""COCO-video annotations arrive as clips: each object where it is, each frame asked the same, each error by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from reference.data.coco_video import BadAnnotations, CocoVideo

WIDTH, HEIGHT = 20, 10
Entries = list[dict[str, Any]]


def video(number: int = 1, frames: int = 3) -> dict[str, Any]:
    names = [f"{number}/{frame}.png" for frame in range(frames)]
    return {"id": number, "width": WIDTH, "height": HEIGHT, "length": frames, "file_names": names}


def track(number: int, boxes: list[Any], video: int = 1, category: int = 1, **others: Any) -> dict[str, Any]:
    return {"id": number, "video_id": video, "category_id": category, "bboxes": boxes, **others}


def dataset(annotations: Entries, videos: Entries | None = None, categories: int = 2) -> dict[str, Any]:
    return {
        "videos": videos or [video()],
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": f"thing {number + 1}"} for number in range(categories)],
    }


Load = Callable[..., CocoVideo]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(data: Any, **options: Any) -> CocoVideo:
        path = tmp_path / "videos.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return CocoVideo(path, **options)

    return write_and_load


def content(loader: CocoVideo, number: int = 0) -> tuple[Entries, Entries]:
    """Queries and annotations of a clip."""
    return loader.loadQueriesAndAnnotationsFromDatapoint(number)


def asked(queries: Entries) -> list[list[str]]:
    """The texts asked for, frame by frame."""
    stages: dict[int, list[str]] = {}
    for query in queries:
        stages.setdefault(query["query_processing_order"], []).append(query["query_text"])
    return [stages[number] for number in range(len(stages))]


# Boxes


def test_boxes_are_cut_at_the_borders_and_given_in_parts_of_the_frame(load: Load) -> None:
    boxes = [[5, 2, 10, 4], [-4, -2, 6, 4], [18, 9, 50, 50]]
    _, annotations = content(load(dataset([track(7, boxes)])))
    expected = [[0.25, 0.2, 0.5, 0.4], [0, 0, 0.1, 0.2], [0.9, 0.9, 0.1, 0.1]]
    torch.testing.assert_close(torch.stack([found["bbox"] for found in annotations]), torch.tensor(expected))
    assert [found["area"] for found in annotations] == pytest.approx([0.2, 0.02, 0.01])
    assert [found["image_id"] for found in annotations] == [0, 1, 2]


@pytest.mark.parametrize("box", [None, [20, 2, 5, 5], [-5, 2, 5, 5], [3, -9, 5, 9], [3, 10, 5, 5], [3, 3, 0, 5]])
def test_what_is_outside_the_frame_or_null_is_absent(load: Load, box: Any) -> None:
    queries, annotations = content(load(dataset([track(1, [[0, 0, 5, 5], box, [5, 5, 5, 5]])])))
    assert [found["image_id"] for found in annotations] == [0, 2]
    assert [query["object_ids_output"] for query in queries] == [[0], [], [], [], [1], []]


def test_an_object_keeps_its_number_and_no_other_has_it(load: Load) -> None:
    first = track(5, [[0, 0, 5, 5], None, [2, 0, 5, 5]])
    second = track(9, [[9, 0, 5, 5]] * 3, iscrowd=1)
    _, annotations = content(load(dataset([first, second])))
    numbers: dict[int, set[int]] = {0: set(), 1: set()}
    for found in annotations:
        numbers[found["is_crowd"]].add(found["object_id"])
    assert [len(found) for found in numbers.values()] == [1, 1]
    assert numbers[0] != numbers[1]


# Masks


def test_all_layouts_of_a_mask_decode_to_the_same(load: Load) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[2:6, 5:15] = 1
    packed = rle.encode(np.asfortranarray(mask))
    compressed = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    column = [HEIGHT - 4, 4]
    plain = {"size": [HEIGHT, WIDTH], "counts": [5 * HEIGHT + 2, 4, *column * 9, 5 * HEIGHT + 4]}
    polygons = [[5, 2, 10, 2, 10, 6, 5, 6], [10, 2, 15, 2, 15, 6, 10, 6]]
    entry = track(1, [[5, 2, 10, 4]] * 4, segmentations=[compressed, plain, polygons, None])
    _, annotations = content(load(dataset([entry], [video(frames=4)])))
    for found in annotations[:3]:
        np.testing.assert_array_equal(rle.decode(found["segmentation"]), mask)
    assert "segmentation" not in annotations[3]


# Queries


def test_every_frame_is_asked_for_all_categories_also_where_nothing_is_seen(load: Load) -> None:
    data = dataset([track(1, [None, [0, 0, 5, 5], None], category=2)], [video(1), video(2, frames=2)], categories=3)
    data["categories"].reverse()
    loader = load(data)
    assert loader.getDatapointIds() == [0, 1]
    for number, frames in ((0, 3), (1, 2)):
        queries, _ = content(loader, number)
        assert asked(queries) == [["thing 1", "thing 2", "thing 3"]] * frames
        assert all(query["image_id"] == query["query_processing_order"] for query in queries)
        assert all(query["is_exhaustive"] for query in queries)
        assert [query["id"] for query in queries] == list(range(3 * frames))


def test_without_negatives_a_video_is_asked_for_what_is_seen_in_it(load: Load) -> None:
    seen = track(1, [None, [0, 0, 5, 5], None], category=2)
    outside = track(2, [[30, 0, 5, 5], None, None], category=3)
    data = dataset([seen, outside], [video(1), video(2)], categories=3)
    loader = load(data, include_negatives=False)
    assert loader.getDatapointIds() == [0]
    assert asked(content(loader)[0]) == [["thing 2"]] * 3


def test_prompts_take_the_place_of_names(load: Load) -> None:
    loader = load(dataset([]), prompts={2: "a second thing"})
    queries, _ = content(loader)
    assert asked(queries) == [["thing 1", "a second thing"]] * 3
    assert {query["original_cat_id"] for query in queries} == {1, 2}


def test_chunks_of_categories_make_clips_of_their_own(load: Load) -> None:
    objects = [track(number, [[number, 0, 5, 5]] * 3, category=number) for number in (1, 2, 3)]
    loader = load(dataset(objects, categories=3), category_chunk_size=2)
    assert loader.getDatapointIds() == [0, 1]
    found = [content(loader, number) for number in (0, 1)]
    assert [asked(queries) for queries, _ in found] == [[["thing 1", "thing 2"]] * 3, [["thing 3"]] * 3]
    lefts = [sorted({round(float(item["bbox"][0]) * WIDTH) for item in items}) for _, items in found]
    assert lefts == [[1, 2], [3]]
    with pytest.raises(ValueError, match="category_chunk_size is 0: expected at least 1"):
        load(dataset(objects), category_chunk_size=0)


def test_videos_keep_apart(load: Load) -> None:
    objects = [track(1, [[1, 0, 5, 5]] * 3, video=8), track(2, [[2, 0, 5, 5]] * 2, video=4)]
    loader = load(dataset(objects, [video(8), video(4, frames=2)]))
    for number, (name, left, frames) in enumerate([(8, 1, 3), (4, 2, 2)]):
        images = loader.loadImagesFromDatapoint(number)
        assert [image["file_name"] for image in images] == [f"{name}/{frame}.png" for frame in range(frames)]
        assert [image["id"] for image in images] == list(range(frames))
        assert {(image["width"], image["height"], image["original_img_id"]) for image in images} == {(20, 10, name)}
        _, annotations = content(loader, number)
        assert [round(float(found["bbox"][0]) * WIDTH) for found in annotations] == [left] * frames


# Any annotations

#: In quarters of a pixel, so that what arrives in parts of a frame can be told exactly.
PLACE = st.integers(-60, 100).map(lambda quarters: quarters / 4)
EXTENT = st.integers(0, 100).map(lambda quarters: quarters / 4)
BOX = st.none() | st.tuples(PLACE, PLACE, EXTENT, EXTENT).map(list)


@st.composite
def any_annotations(draw: st.DrawFn) -> dict[str, Any]:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    categories = draw(st.integers(1, 3))
    tracks = []
    for number in range(draw(st.integers(0, 5))):
        where = draw(st.integers(0, len(lengths) - 1))
        boxes = draw(st.lists(BOX, min_size=lengths[where], max_size=lengths[where]))
        tracks.append(track(number, boxes, video=where + 1, category=draw(st.integers(1, categories))))
    return dataset(tracks, [video(number + 1, frames) for number, frames in enumerate(lengths)], categories)


def _visible(box: list[float] | None) -> list[float] | None:
    if box is None:
        return None
    corners = [*np.clip([box[0], box[0] + box[2]], 0, WIDTH), *np.clip([box[1], box[1] + box[3]], 0, HEIGHT)]
    left, right, top, bottom = (float(corner) for corner in corners)
    return [left, top, right - left, bottom - top] if right > left and bottom > top else None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=any_annotations(), negatives=st.booleans(), chunk=st.none() | st.integers(1, 3))
def test_each_box_arrives_once_in_its_frame_and_is_expected_once(
    load: Load, data: dict[str, Any], negatives: bool, chunk: int | None
) -> None:
    wanted = sorted(
        (entry["video_id"], entry["category_id"], frame, *box)
        for entry in data["annotations"]
        for frame, box in enumerate(map(_visible, entry["bboxes"]))
        if box is not None
    )
    if not wanted and not negatives:
        with pytest.raises(BadAnnotations, match="no object that is seen"):
            load(data, include_negatives=negatives, category_chunk_size=chunk)
        return
    loader = load(data, include_negatives=negatives, category_chunk_size=chunk)
    arrived = []
    for number in loader.getDatapointIds():
        images = loader.loadImagesFromDatapoint(number)
        queries, annotations = content(loader, number)
        assert len(asked(queries)) == len(images)
        assert len({tuple(texts) for texts in asked(queries)}) == 1
        assert chunk is None or len(asked(queries)[0]) <= chunk
        expected = [output for query in queries for output in query["object_ids_output"]]
        assert sorted(expected) == [found["id"] for found in annotations]
        for query in queries:
            for found in (annotations[output] for output in query["object_ids_output"]):
                assert found["image_id"] == query["image_id"] == found["frame_index"]
                pixels = found["bbox"] * torch.tensor([WIDTH, HEIGHT] * 2)
                box = [round(4 * side) / 4 for side in pixels.tolist()]
                arrived.append((images[0]["original_img_id"], query["original_cat_id"], query["image_id"], *box))
    assert sorted(arrived) == wanted


# Errors


def _with(**changed: Any) -> dict[str, Any]:
    return {**dataset([track(7, [[0, 0, 5, 5]] * 3)]), **changed}


def _mask(counts: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    entry = track(7, [[0, 0, 5, 5]] * 3, segmentations=[None, {"size": list(size), "counts": counts}, None])
    return dataset([entry])


TRACK = track(7, [[0, 0, 5, 5]] * 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "cannot be read as JSON: "),
        ("3", "holds no list of 'videos'"),
        ([], "holds no list of 'videos'"),
        (_with(annotations=None), "holds no list of 'annotations'$"),
        ({"images": [], "annotations": [], "categories": []}, r"'videos' \(COCO annotations of single images make no"),
        (_with(videos=[], annotations=[]), "holds no video"),
        (_with(categories=[], annotations=[]), "holds no category: there is nothing to ask for"),
        (_with(videos=[{"id": 1}]), "video 1 has no 'file_names'"),
        (_with(videos=[{**video(), "length": 4}]), "video 1 says length 4 and lists 3 file_names"),
        (_with(videos=[{**video(), "file_names": []}]), "video 1 lists no file_names"),
        (_with(videos=[{**video(), "file_names": ["a", None, "b"]}]), "video 1 lists no file_names"),
        (_with(videos=[{**video(), "height": "10"}]), "video 1: height is '10', expected a whole number"),
        (_with(videos=[{**video(), "width": 0}]), "video 1: width is 0, expected at least 1"),
        (_with(videos=[video(3), video(3)]), "two videos have the id 3"),
        (_with(categories=2 * [{"id": 1, "name": "x"}]), "two categories have the id 1"),
        (_with(categories=[{"id": "x", "name": "x"}]), "category x: id is 'x', expected a whole number"),
        (_with(categories=[{"id": 1}]), "category 1 has no 'name'"),
        (_with(annotations=[{**TRACK, "video_id": 2}]), "annotation 7: there is no video 2"),
        (_with(annotations=[{**TRACK, "video_id": [1]}]), r"annotation 7: video_id is \[1\], expected a whole"),
        (_with(annotations=[{**TRACK, "category_id": 5}]), "annotation 7: there is no category 5"),
        (_with(annotations=[{"id": 7, "video_id": 1, "category_id": 1}]), "annotation 7 has no 'bboxes'"),
        (_with(annotations=["x"]), "annotation x has no 'video_id'"),
        (_with(annotations=[track(7, [None])]), "annotation 7: bboxes has 1 for the 3 frames of video 1"),
        (_with(annotations=[{**TRACK, "segmentations": []}]), "annotation 7: segmentations has 0 for the 3 frames"),
        (_with(annotations=[{**TRACK, "bboxes": 3}]), "annotation 7: bboxes has no list for the 3 frames"),
        (_with(annotations=[track(7, [None, [1, 2, 3], None])]), r"annotation 7, frame 1: \[1, 2, 3\] is no box"),
        (_with(annotations=[track(7, [None, None, "none"])]), "annotation 7, frame 2: 'none' is no box"),
        (_with(annotations=[track(7, [None, None, [0, 0, float("nan"), 1]])]), "annotation 7, frame 2: .* is no box"),
    ],
)
def test_refuses(load: Load, data: Any, message: str) -> None:
    with pytest.raises(BadAnnotations, match=message) as caught:
        load(data)
    assert "videos.json: " in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_mask([100, 10, 90], (WIDTH, HEIGHT)), r"it is of size \[20, 10\], the video's frames are of \[10, 20\]"),
        (_mask([100, 10]), "its runs add up to 110 pixels of 200"),
        (_mask([100, "x"]), "unsupported operand"),
        (dataset([{**TRACK, "segmentations": [None, [[1, 2]], None]}]), "input type is not supported"),
    ],
)
def test_refuses_a_mask_when_it_is_read(load: Load, data: Any, message: str) -> None:
    loader = load(data)
    where = r"videos\.json: annotation 7, frame 1: the mask cannot be used: "
    with pytest.raises(BadAnnotations, match=where + message):
        content(loader)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadAnnotations, match=r"gone\.json: cannot be read as JSON: .*No such file"):
        CocoVideo(tmp_path / "gone.json")
