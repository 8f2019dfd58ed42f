"""The data path of training: real files, the target's loader, dataset, transforms and collator, up to a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hypothesis import strategies as st

from fixtures.ranks import Ranks
from fixtures.synthetic.videos import MASKS, VIDEO_ANNOTATIONS
from verify.configuration.configured import declares, place_of_data_path
from verify.configuration.reading import layout_of, loader_name, source_of, why_no_data_path
from verify.data.agreement import (
    assert_all_asked,
    assert_in_order,
    assert_own_objects,
    assert_stages,
    clip_table,
    image_shown,
)
from verify.data.alike import assert_alike
from verify.data.batch import Arrived
from verify.data.case import (
    Cases,
    Loading,
    WorldSizes,
    loading_from_json,
    loadings,
    loadings_at_any_stride,
    loadings_of_any_length,
)
from verify.data.observation import NoClip, clips_of, epochs_of
from verify.engine.check import HAZARD, THREADS, check
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target

Clips = tuple[Arrived, ...]
Observe = Callable[[Loading], Clips]
#: Epochs in which every frame has to be drawn at least once: for one that a fourth of the clips have, the odds that
#: chance alone leaves it out are below one in 10**9.
EPOCHS = 80


def _load(ranks: Ranks, target: Target, case: Loading) -> Clips:
    try:
        return clips_of(target, case)
    except NoClip as error:
        raise Violation(f"no clip arrives from {source_of(target, case.stages)}: {error}") from None


data_check = partial(
    check,
    "data",
    from_json=loading_from_json,
    why_not_provided=why_no_data_path,
    launchers=(THREADS,),
    rests_on=("test_loader_makes_clips",),
    place_of_code=place_of_data_path,
)


@data_check(loadings_of_any_length, _load, cost=5)
def test_loader_makes_clips(case: Loading, observe: Observe, target: Target) -> None:
    """The loader and the dataset make a clip of every video, of as many frames as are asked for.

    A loader for single images makes datapoints of one frame, and sam3's dataset of clips tries a hundred of them
    before it ends without the reason. What cannot make clips has to say so at once.
    """
    clips = observe(case)
    if len(clips) < case.videos:
        raise Violation("there are videos of which no clip is made", expected=case.videos, got=len(clips))
    for clip in clips:
        if len(clip.stages) != case.stages:
            raise Violation(
                f"{loader_name(target)} makes a clip of {len(clip.stages)} frames",
                expected=case.stages,
                got=len(clip.stages),
            )


@data_check(loadings_at_any_stride, _load, cost=2)
def test_clip_stages(case: Loading, observe: Observe, target: Target) -> None:
    """The stages of a clip run through one video in time order, at strides within bounds, or backwards where asked.

    Frames in another order, or of another video, are a clip that never was; what the model would learn of motion from
    it later is wrong.
    """
    for clip in observe(case):
        assert_stages(clip, case.stages)
        assert_in_order(clip, case)


@data_check(loadings_at_any_stride, _load, cost=2)
def test_own_objects(case: Loading, observe: Observe, target: Target) -> None:
    """Each stage expects its own frame's objects, with their boxes and masks, and is asked for every category.

    Also where the clip runs backwards, and where a category is not seen in a frame: then nothing is expected, and
    asked all the same. Targets of a neighbouring frame lie so near that a falling loss does not show them. Where a
    loader makes several clips of a video, of some of the categories each, they ask for all that they show together.
    A text that names no category is taken for the one whose objects it expects.
    """
    clips = observe(case)
    for clip in clips:
        assert_stages(clip, case.stages)
    assert_all_asked(clips, case, assert_own_objects(clips, target, case))


def _load_together(ranks: Ranks, target: Target, case: Loading) -> Clips:
    try:
        return clips_of(target, case, together=True)
    except NoClip as error:
        raise Violation(f"no batch of clips arrives from {source_of(target, case.stages)}: {error}") from None


@data_check(
    lambda target, sizes: loadings(target, sizes, videos=st.integers(2, 3), objects=st.integers(2, 4)),
    _load_together,
    cost=2,
)
def test_clips_apart(case: Loading, observe: Observe, target: Target) -> None:
    """Clips in a batch keep their own images, texts and targets apart, in every stage.

    Their images lie one behind the other in one tensor and their texts in one list; an index that forgets the clips
    before it trains one video on another's objects.
    """
    (batch,) = observe(case)
    assert_stages(batch, case.stages)
    assert_own_objects([batch], target, case)
    for stage, queries in enumerate(batch.stages):
        of_image: dict[int, int] = {}
        for query in queries:
            shown = image_shown(query, stage, batch)
            if query.asked_of not in (None, shown.video):
                raise Violation(
                    f"stage {stage} asks for a text of video {query.asked_of} in frame {shown.frame} of video "
                    f"{shown.video}",
                    frame=stage,
                    tensor="text_ids",
                    expected=f"a text that came with video {shown.video}",
                    got=query.text,
                    table=clip_table(batch),
                )
            of_image[query.image] = of_image.get(query.image, 0) + 1
        videos = [seen.video for image in of_image if (seen := batch.images[image]) is not None]
        if len(of_image) != case.videos or sorted(videos) != list(range(case.videos)):
            raise Violation(
                f"stage {stage} of a batch of {case.videos} clips is not of one frame a clip",
                frame=stage,
                tensor="img_ids",
                expected=f"a frame of each of {case.videos} videos",
                got=f"frames of videos {sorted(videos)}",
                table=clip_table(batch),
            )


@data_check(loadings, _load, cost=3, kind=HAZARD)
def test_negatives_count(case: Loading, observe: Observe, target: Target) -> None:
    """What is annotated is marked as all there is, so that what is found besides counts as an error.

    sam3's loss forgives what is found where a query is not exhaustive (``weak_loss``, and in tracking). The layouts
    here have no word on it; sam3's loaders of images say that they are exhaustive, and its dataset of clips has
    ``override_query_is_exhaustive_to_true`` for loaders that do not.
    """
    for clip in observe(case):
        for stage, queries in enumerate(clip.stages):
            for query in queries:
                if not query.exhaustive:
                    expected = f"{len(query.boxes)} objects" if query.boxes else "nothing"
                    raise Violation(
                        f"stage {stage} expects {expected} for {query.text!r}, and is not exhaustive",
                        frame=stage,
                        tensor="is_exhaustive",
                        expected=True,
                        got=False,
                        table=clip_table(clip),
                    )


def _load_epochs(ranks: Ranks, target: Target, case: Loading) -> tuple[Clips, ...]:
    try:
        return epochs_of(target, case, EPOCHS)
    except NoClip as error:
        raise Violation(f"no clip arrives from {source_of(target, case.stages)}: {error}") from None


def _sampled(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.builds(
        Loading,
        stages=st.just(3),
        frames=st.sampled_from((6, 5)),
        stride_max=st.integers(1, 2),
        reverse=st.just(True),
        objects=st.just(1),
        seed=st.integers(0, 15),
    )


@data_check(_sampled, _load_epochs, cost=10)
def test_sampling(case: Loading, observe: Callable[[Loading], tuple[Clips, ...]], target: Target) -> None:
    """Epoch by epoch other clips are drawn of a video, until each of its frames has been in one.

    As a data loader's workers draw them, which start every epoch from a copy of the dataset: one that is not told the
    epoch, or does not listen, draws the same clip of a video in every epoch, and trains on few of its frames.
    """
    epochs = observe(case)
    for index in range(len(epochs[0])):
        drawn = [[shown.frame for shown in clips[index].images if shown is not None] for clips in epochs]
        if all(frames == drawn[0] for frames in drawn):
            raise Violation(
                f"clip {index} is the same in each of {len(epochs)} epochs",
                expected="another first frame, stride or direction",
                got=f"frames {drawn[0]}",
            )
        never = sorted(set(range(case.frames)) - {frame for frames in drawn for frame in frames})
        if never:
            raise Violation(
                f"frame {never[0]} is not in clip {index} in any of {len(epochs)} epochs",
                frame=never[0],
                expected=f"all of frames 0 to {case.frames - 1}",
                got=f"never: {never}",
            )
        directions = {(frames[-1] > frames[0]) for frames in drawn}
        if len(directions) < 2:
            raise Violation(
                f"clip {index} never runs {'backwards' if True in directions else 'forwards'}",
                expected=f"both directions in {len(epochs)} epochs",
            )


def _transformed(target: Target, world_sizes: WorldSizes) -> Cases:
    return loadings(target, world_sizes, own_transforms=st.just(True), reverse=st.booleans())


def _decoded(clips: Clips) -> list[Arrived]:
    """The clips whose images still tell what they show; a transform may have changed some colours."""
    decoded = [clip for clip in clips if None not in clip.images]
    if not decoded:
        raise NotCovered("the transforms change the colours by which frames and objects are told apart")
    return decoded


@data_check(_transformed, _load, cost=5)
def test_transforms_keep_targets(case: Loading, observe: Observe, target: Target) -> None:
    """After the configuration's own transforms, boxes and masks still lie on the objects that the image shows.

    Whatever a transform does to an image it has to do to its targets, also in clips.
    """
    assert_own_objects(_decoded(observe(case)), target, case)


@data_check(_transformed, _load, cost=5)
def test_frames_alike(case: Loading, observe: Observe, target: Target) -> bool:
    """The configuration's transforms resize, crop, flip, turn and pad all frames of a clip alike.

    The image recipe draws a size and a place for each image by itself (``consistent_transform: False``). In a clip,
    objects then jump and change their size from frame to frame, which no video does.
    """
    compared, unknown = False, None
    for clip in _decoded(observe(case)):
        try:
            compared = assert_alike(clip, case) or compared
        except NotCovered as error:  # another clip may tell
            unknown = error
    if unknown is not None:
        raise unknown
    return compared


def _load_or_refuse(ranks: Ranks, target: Target, case: Loading) -> Clips | str:
    """Clips, or in one line why there are none."""
    try:
        return clips_of(target, case)
    except NoClip as error:
        return str(error)


def _filtered(target: Target, world_sizes: WorldSizes) -> Cases:
    limits = st.sampled_from((1, 0))
    return loadings(target, world_sizes, own_transforms=st.just(True), objects=st.just(4), max_num_objects=limits)


@data_check(_filtered, _load_or_refuse, cost=3)
def test_filters_keep_stages(case: Loading, observe: Callable[[Loading], Clips | str], target: Target) -> None:
    """No filter of the configuration's transforms leaves a stage empty or with fewer queries than the others unsaid.

    Stages pair by their queries: one that lacks the third text pairs the fourth with it from there on. A data path that
    refuses such a clip with an error is right, too.
    """
    loaded = observe(case)
    plain = observe(replace(case, own_transforms=False, max_num_objects=0))
    if isinstance(plain, str):
        raise Violation(f"no clip arrives from {source_of(target, case.stages)}: {plain}")
    if isinstance(loaded, str):
        return
    for clip in loaded:
        counts = [len(queries) for queries in clip.stages]
        if len(counts) != case.stages or len(set(counts)) > 1:
            limit = f", where max_num_objects is {case.max_num_objects}" if case.max_num_objects else ""
            raise Violation(
                f"after the transforms the stages are uneven{limit}",
                expected=f"{case.stages} stages of equally many queries",
                got=f"queries by stage: {counts}",
                table=clip_table(clip),
            )
        assert_stages(clip, case.stages)


def _limited(target: Target, world_sizes: WorldSizes) -> Cases:
    tiled = st.builds(
        Loading, frames=st.just(1), stages=st.integers(2, 4), tiling=st.just(True), seed=st.integers(0, 15)
    )
    limited = loadings(target, world_sizes, max_query_num=st.integers(1, 2))
    return st.one_of(
        *([limited] if declares(target, "max_query_num") else []),
        *([tiled] if declares(target, "is_tiling_single_image") else []),
    )


def _why_no_limits(target: Target) -> str | None:
    reason = why_no_data_path(target)
    if reason is None and not (declares(target, "max_query_num") or declares(target, "is_tiling_single_image")):
        return "the dataset has neither of the options max_query_num and is_tiling_single_image"
    return reason


@data_check(_limited, _load_or_refuse, why_not_provided=_why_no_limits, cost=3)
def test_tiling_and_query_limit(case: Loading, observe: Callable[[Loading], Clips | str], target: Target) -> None:
    """The dataset's options for repeating single images and for fewer queries do what they say, or are refused by name.

    Both of sam3 0.1.4's fail on what its datapoints no longer have.
    """
    option = "is_tiling_single_image" if case.tiling else "max_query_num"
    loaded = observe(case)
    if isinstance(loaded, str):
        plain = observe(replace(case, tiling=False, max_query_num=-1, frames=Loading.frames))
        if isinstance(plain, str):
            raise Violation(f"no clip arrives from {source_of(target, case.stages)}: {plain}")
        if option not in loaded:
            raise Violation(
                f"{option} fails, and the error does not name it", expected="clips, or a refusal", got=loaded
            )
        return
    for clip in loaded:
        assert_stages(clip, case.stages)
    assert_own_objects(loaded, target, case)
    for clip in loaded:
        if case.tiling:
            frames = {(shown.video, shown.frame) for shown in clip.images if shown is not None}
            if len(frames) != 1:
                raise Violation(f"{option} makes a clip of different frames", got=sorted(frames))
        elif len(clip.stages[0]) > case.max_query_num:
            raise Violation(
                f"{option} leaves more queries than asked for", expected=case.max_query_num, got=len(clip.stages[0])
            )


def _with_a_gap(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.builds(
        Loading,
        frames=st.just(4),
        stages=st.just(4),
        missing=st.integers(0, 3),
        seed=st.integers(0, 3),
        objects=st.just(1),
    )


@data_check(_with_a_gap, _load_or_refuse, cost=5, kind=HAZARD)
def test_missing_frames(case: Loading, observe: Callable[[Loading], Clips | str], target: Target) -> None:
    """An image file that is missing ends loading with an error that names it.

    sam3's own dataset goes on with another clip and only writes to the standard error: a folder half copied trains
    for days on the other half.
    """
    plain = observe(replace(case, missing=-1))
    if isinstance(plain, str):
        raise Violation(f"no clip arrives from {source_of(target, case.stages)}: {plain}")
    loaded = observe(case)
    name = f"missing_{case.missing}.png"
    if not isinstance(loaded, str) or name not in loaded:
        raise Violation(
            "an image file is missing, and loading does not say which",
            frame=case.missing,
            expected=f"an error that names {name}",
            got=loaded if isinstance(loaded, str) else f"{len(loaded)} clips",
        )


def _in_each_layout(target: Target, world_sizes: WorldSizes) -> Cases:
    return st.builds(
        Loading,
        frames=st.just(4),
        stages=st.just(2),
        masks=st.just(True),
        mask_layout=st.sampled_from(MASKS),
        seed=st.integers(0, 3),
    )


def _why_one_layout(target: Target) -> str | None:
    if layout_of(target) == VIDEO_ANNOTATIONS:
        return None
    return f"{loader_name(target)} reads annotations of single images, which hold masks in one way here"


@data_check(_in_each_layout, _load_or_refuse, why_not_applicable=_why_one_layout, cost=3, kind=HAZARD)
def test_mask_layouts(case: Loading, observe: Callable[[Loading], Clips | str], target: Target) -> None:
    """Masks are read both as compressed run lengths and as plain ones, as COCO's files have either.

    The annotations of YouTube-VIS hold plain ones, those that pycocotools writes compressed ones. Where only one kind
    is read, the other checks of this group are run with it.
    """
    loaded = observe(case)
    if isinstance(loaded, str):
        raise Violation(
            f"masks as {case.mask_layout} run lengths are not read: {loaded}",
            tensor="segments",
            expected="clips",
            got="none",
        )
