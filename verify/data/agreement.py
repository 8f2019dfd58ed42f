"""Comparisons of the clips that arrive with the videos that they were made of."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from fixtures.synthetic.videos import CATEGORIES, Shown
from verify.configuration.configured import loads_masks
from verify.configuration.videos import videos_of
from verify.data.batch import Arrived, Mask, Query
from verify.data.case import Loading
from verify.data.meanings import Meanings, meanings_of, queries_of
from verify.data.placing import NEAR, distance
from verify.engine.finding import Violation
from verify.target.naming import Target

#: How many of an object's pixels a mask may have wrong, as a part of them: edges, which each resizing rounds another
#: way, are not counted; a corner that is filled up has a third.
MASKS_NEAR = 0.05
#: What is less than this part of an image counts as this.
SMALL = 0.01


def _box_text(box: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in box) + "]"


def clip_table(clip: Arrived) -> list[list[object]]:
    """What each stage shows and expects."""
    rows: list[list[object]] = [["stage", "video", "frame", "text", "boxes"]]
    for stage, queries in enumerate(clip.stages):
        for query in queries:
            shown = query.shown
            rows.append(
                [
                    stage,
                    shown.video if shown else "?",
                    shown.frame if shown else "?",
                    query.text,
                    " ".join(_box_text(box) for box in query.boxes) or "none",
                ]
            )
    return rows


def image_shown(query: Query, stage: int, clip: Arrived) -> Shown:
    if query.shown is None:
        raise Violation(
            f"stage {stage} is given an image that shows none of the videos' frames",
            frame=stage,
            tensor="img_batch",
            table=clip_table(clip),
        )
    return query.shown


def assert_stages(clip: Arrived, count: int) -> None:
    """Every stage is there, and asks for the same texts in the same order."""
    if len(clip.stages) != count:
        raise Violation(
            f"{len(clip.stages)} stages arrive for a clip of {count} frames", expected=count, got=len(clip.stages)
        )
    first = [query.text for query in clip.stages[0]]
    for stage, queries in enumerate(clip.stages):
        texts = [query.text for query in queries]
        if texts != first or not texts:
            raise Violation(
                f"stage {stage} asks for other texts than stage 0",
                frame=stage,
                tensor="text_ids",
                expected=", ".join(first),
                got=", ".join(texts) or "none",
                table=clip_table(clip),
            )


def assert_own_objects(clips: Sequence[Arrived], target: Target, case: Loading) -> Meanings:
    """Each query of clips expects the objects of its category that its own image shows, where the image shows them.

    Gives which category each text was taken for.
    """
    meanings = meanings_of(clips, case)
    for clip in clips:
        _assert_own_objects(clip, target, case, meanings)
    return meanings


def assert_all_asked(clips: Sequence[Arrived], case: Loading, meanings: Meanings) -> None:
    """Of each video every category that its clips show is asked for, in one of them."""
    tracks = videos_of(case.spec()).tracks
    for video, objects in enumerate(tracks):
        queries = [query for query in queries_of(clips) if query.shown and query.shown.video == video]
        texts = {query.said for query in queries}
        shown = {objects[number].category for query in queries if query.shown for number in query.shown.boxes}
        missing = sorted(shown - {meanings[text] for text in texts & meanings.keys()})
        # A text whose category is not known may ask for one of them.
        if len(missing) > len(texts - meanings.keys()):
            names = ", ".join(CATEGORIES[number] for number in missing)
            raise Violation(
                f"none of the clips of video {video} asks for what they show: {names}",
                tensor="text_ids",
                expected=", ".join(CATEGORIES[number] for number in sorted(shown)),
                got=", ".join(sorted(texts)) or "no text",
                table=next((clip_table(clip) for clip in clips if video in _videos(clip)), ()),
            )


def _videos(clip: Arrived) -> set[int]:
    return {shown.video for shown in clip.images if shown is not None}


def _assert_own_objects(clip: Arrived, target: Target, case: Loading, meanings: Meanings) -> None:
    videos = videos_of(case.spec())
    for stage, queries in enumerate(clip.stages):
        for query in queries:
            shown = image_shown(query, stage, clip)
            tracks, category = videos.tracks[shown.video], meanings.get(query.said)
            right = {number: box for number, box in shown.boxes.items() if tracks[number].category == category}
            where = f"frame {shown.frame} of video {shown.video}, {query.text!r}"
            for box in query.boxes:
                if not right or min(distance(box, other) for other in right.values()) > NEAR:
                    raise Violation(
                        f"stage {stage} ({where}) expects a box where its image shows no such object",
                        frame=stage,
                        tensor="boxes",
                        expected=" ".join(_box_text(other) for other in right.values()) or "none",
                        got=_box_text(box),
                        table=clip_table(clip),
                    )
            if len(query.boxes) != len(right):
                raise Violation(
                    f"stage {stage} ({where}) expects {len(query.boxes)} objects where its image shows {len(right)}",
                    frame=stage,
                    tensor="num_boxes",
                    expected=len(right),
                    got=len(query.boxes),
                    table=clip_table(clip),
                )
            if query.padded is not None and query.padded != query.boxes:
                raise Violation(
                    f"stage {stage} ({where}) gives the matcher other boxes than the loss",
                    frame=stage,
                    tensor="boxes_padded",
                    expected=" ".join(map(_box_text, query.boxes)) or "none",
                    got=" ".join(map(_box_text, query.padded)) or "none",
                    table=clip_table(clip),
                )
            if case.masks:
                _assert_own_masks(query, right, stage, where, clip, required=loads_masks(target))


def _assert_own_masks(
    query: Query, right: Mapping[int, tuple[float, ...]], stage: int, where: str, clip: Arrived, required: bool
) -> None:
    """The masks of a query's objects, and of all together, are what the image shows of them."""
    for box, mask in zip(query.boxes, query.masks, strict=True):
        if mask is None and required:
            raise Violation(
                f"stage {stage} ({where}) expects no mask of an object that is annotated with one",
                frame=stage,
                tensor="segments",
                expected="a mask: the configuration's load_segmentation is on",
                table=clip_table(clip),
            )
        if mask is None:
            continue
        if not mask.box or distance(box, mask.box) > NEAR:
            raise Violation(
                f"stage {stage} ({where}) expects a mask that does not lie in its box",
                frame=stage,
                tensor="segments",
                expected=_box_text(box),
                got=_box_text(mask.box) if mask.box else "an empty mask",
                table=clip_table(clip),
            )
        own = min(right, key=lambda number: distance(right[number], box))
        _assert_taken(mask, {own}, "a mask", "segments", stage, where, clip)
    if query.semantic is not None:
        _assert_taken(query.semantic, right, "a semantic mask", "semantic_segments", stage, where, clip)


def _assert_taken(
    mask: Mask, objects: Collection[int], what: str, tensor: str, stage: int, where: str, clip: Arrived
) -> None:
    """A mask takes the pixels that the image shows of some objects, and no others."""
    seen = sum(mask.of.get(number, 0) for number in objects)
    wrong = mask.wrong(objects)
    if wrong > MASKS_NEAR * max(seen, SMALL * sum(mask.of.values())):
        raise Violation(
            f"stage {stage} ({where}) expects {what} that is not what its image shows",
            frame=stage,
            tensor=tensor,
            expected=f"the {seen} pixels of {len(objects)} objects",
            got=f"{sum(mask.takes.values())} pixels, {wrong} wrong: they lack the object, or are beside it",
            table=clip_table(clip),
        )


def assert_in_order(clip: Arrived, case: Loading) -> None:
    """The stages show one video in one direction, each at a stride within bounds from the stage before it."""
    shown = [image_shown(queries[0], stage, clip) for stage, queries in enumerate(clip.stages)]
    frames = [image.frame for image in shown]
    videos = {image.video for image in shown}
    for stage, queries in enumerate(clip.stages):
        if len({query.image for query in queries}) > 1:
            raise Violation(
                f"the queries of stage {stage} are of different images", frame=stage, table=clip_table(clip)
            )
    steps = [later - earlier for earlier, later in itertools.pairwise(frames)]
    if len(videos) > 1 or not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise Violation(
            "the stages do not run through one video in one direction",
            tensor="img_ids",
            expected="one video, and later frames at each step, or earlier ones",
            got=f"videos {sorted(videos)}, frames {frames}",
            table=clip_table(clip),
        )
    # A video too short for the stride is sampled as widely as it can be.
    low = min(case.stride_min, (case.frames - 1) // max(1, case.stages - 1))
    for step in steps:
        if not low <= abs(step) <= case.stride_max or (step < 0 and not case.reverse):
            direction = " or backwards" if case.reverse else ", forwards"
            raise Violation(
                f"the stages run at a stride of {step}",
                tensor="img_ids",
                expected=f"{low} to {case.stride_max}{direction}",
                got=f"frames {frames}",
                table=clip_table(clip),
            )
