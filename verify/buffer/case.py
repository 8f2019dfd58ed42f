"""How cases of the groups *schedule* and *parity* are drawn: scans and lists of visits, by what a check looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.scripted_detector import LAYOUTS
from reference.oracle import batches
from reference.oracle.detection import Suppression
from verify.target.naming import Target
from verify.video.detector import ANY_OTHER, buffer_options, is_batched, why_no_argument_for_nms
from verify.video.scan import PROBABILITIES, Scan, Visit, batch_sizes, number_of_frame, scans, suppressions
from verify.video.scripting import only_frame, why_no_scripted_buffer


@st.composite
def visit_lists(
    draw: st.DrawFn, world_sizes: st.SearchStrategy[int], max_frames: int = 24, batched: bool = False, **fixed: Any
) -> Scan:
    """Draw visits out of order, in both directions, without a repeated frame in a row."""
    world_size = draw(world_sizes)
    frames = draw(st.integers(2, max_frames))
    reverse = draw(st.booleans())
    order = draw(st.lists(st.integers(0, frames - 1), min_size=2, max_size=12))
    return Scan(
        frames,
        world_size,
        visits=tuple(Visit(frame, reverse) for frame in order),
        asynchronous=draw(st.booleans()),
        seed=draw(st.integers(0, 255)),
        batch=draw(batch_sizes(frames)) if batched else 0,
        **{"gather": False, **fixed},
    )


WorldSizes = st.SearchStrategy[int]
Scans = st.SearchStrategy[Scan]


def scans_of(target: Target, world_sizes: WorldSizes, **options: Any) -> Scans:
    """Scans as the target's buffer takes them: in chunks of a frame a rank, or in batches."""
    return scans(world_sizes, batched=is_batched(target), **options)


def _without_extras(target: Target, world_sizes: WorldSizes, **options: Any) -> Scans:
    """Scans that do nothing but detect: no NMS, no gathering of features, plain memory."""
    return scans_of(target, world_sizes, suppression=st.none(), layouts=("contiguous",), gather=False, **options)


def only_frames(target: Target, world_sizes: WorldSizes) -> Scans:
    return st.just(only_frame(target))


def scans_without_nms(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, world_sizes, suppression=st.none())


def scans_perhaps_with_nms(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, world_sizes, suppression=perhaps_suppressions(target))


def full_scans(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, world_sizes, suppression=st.none(), from_end=True)


@st.composite
def long_scans(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Scans of all of a video of more frames than a byte can number, by a whole batch of them."""
    case = draw(_without_extras(target, world_sizes))
    frames = draw(st.integers(273, 280))
    return replace(case, frames=frames, start=frames - 1 if case.reverse else 0)


def several_ranks(world_sizes: WorldSizes) -> WorldSizes:
    return world_sizes.filter(lambda size: size > 1)


def scans_of_one_rank(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_without_nms(target, st.just(1))


def takes_limits(target: Target) -> bool:
    return bool({"max_frame_num_to_track", ANY_OTHER} & buffer_options(target))


def why_no_nms(target: Target) -> str | None:
    return why_no_scripted_buffer(target) or why_no_argument_for_nms(target)


def perhaps_suppressions(target: Target) -> st.SearchStrategy[Suppression | None]:
    return st.none() if why_no_nms(target) else st.none() | suppressions()


def asynchronous_scans(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, several_ranks(world_sizes), suppression=perhaps_suppressions(target), asynchronous=True)


def scans_in_layouts(target: Target, world_sizes: WorldSizes) -> Scans:
    layouts = tuple(layout for layout in LAYOUTS if layout != "contiguous")
    return scans_of(target, several_ranks(world_sizes), suppression=st.none(), layouts=layouts)


def any_scans(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, several_ranks(world_sizes), suppression=perhaps_suppressions(target))


@st.composite
def scans_on_several_nodes(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(scans_of(target, several_ranks(world_sizes), suppression=st.none(), layouts=("contiguous",)))
    return replace(case, ranks_per_node=draw(st.integers(1, case.world_size - 1)))


def scans_with_nms(target: Target, world_sizes: WorldSizes) -> Scans:
    overlaps = suppressions("nms_use_iom" in buffer_options(target))
    return scans_of(target, world_sizes, max_frames=20, suppression=overlaps)


def scans_with_everything(target: Target, world_sizes: WorldSizes, **options: Any) -> Scans:
    """Scans that ask for tracker features, of a model that has them, and perhaps for NMS."""
    options = {"suppression": perhaps_suppressions(target), **options}
    return scans_of(target, world_sizes, gather=True, tracker=True, features=True, **options)


def _visits_within(case: Scan, start: int, limit: int, told: bool = True) -> list[Visit]:
    """What a case's scan visits under a limit; ``told``: whether its calls are told where it has begun."""
    begun = start if told else None
    within = batches.visits_within(case.frames, start, limit, case.reverse)
    return [Visit(frame, case.reverse, case.geometric, limit=limit, limit_from=begun) for frame in within]


@st.composite
def scans_as_called(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans under a limit, out of order, or begun again, that ask for features and perhaps NMS in every call.

    Those under a limit end a frame early: the last one has checks of its own. Stages ask for each text, or for one.
    """
    case = draw(scans_with_everything(target, world_sizes, min_frames=3, max_frames=16))
    if draw(st.booleans()):
        case = replace(case, prompts=2, asks=draw(st.integers(0, 1)))
    kinds = ("jumps", "again", *(["limit"] if takes_limits(target) else []))
    kind = draw(st.sampled_from(kinds))
    if kind == "jumps":
        order = draw(st.lists(st.integers(0, case.frames - 1), min_size=2, max_size=8))
        return replace(case, visits=tuple(Visit(frame, case.reverse, case.geometric) for frame in order))
    if kind == "again":
        other = replace(case, start=draw(st.integers(0, case.frames - 1)), reverse=draw(st.booleans()))
        return replace(case, visits=case.calls() + other.calls())
    start = max(2, case.start) if case.reverse else min(case.start, case.frames - 2)
    limit = draw(st.integers(2 if case.reverse else 1, start if case.reverse else case.frames - 1 - start))
    return replace(case, start=start, visits=tuple(_visits_within(case, start, limit)[:-1]))


def scans_with_tracker(target: Target, world_sizes: WorldSizes) -> Scans:
    return st.builds(
        replace,
        scans_with_everything(target, world_sizes),
        gather=st.sampled_from((True, None)),  # the default follows from the backbone, which has a tracker neck
    )


def scans_without_gathering(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(
        target, several_ranks(world_sizes), suppression=st.none(), gather=False, tracker=True, features=True
    )


@st.composite
def visits_in_any_order(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    if draw(st.booleans()):
        return draw(visit_lists(world_sizes, batched=is_batched(target)))
    case = draw(_without_extras(target, world_sizes, max_frames=20))
    start, reverse = draw(st.integers(0, case.frames - 1)), draw(st.booleans())
    again = replace(case, start=start, reverse=reverse)
    return replace(case, visits=case.calls() + again.calls())


@st.composite
def long_limited_scans(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans under a limit that visit a few chunks, so that some have been left when the last one is cut."""
    case = draw(limited_scans(target, world_sizes, long=True))
    if not case.batch:
        return case
    visited = len(case.calls())
    return replace(case, batch=draw(st.integers(1, max(1, visited // 2))))


@st.composite
def limited_scans(
    draw: st.DrawFn,
    target: Target,
    world_sizes: WorldSizes,
    past_the_end: bool = False,
    resumed: bool = False,
    told: bool = True,
    long: bool = False,
) -> Scan:
    """Draw scans under a limit that ends them within the clip, at its last frame at most.

    ``past_the_end``: under one that reaches beyond the clip. ``resumed``: which then go on without one. ``told``:
    whether calls are told where the scan has begun. ``long``: a clip of 8 frames or more, and at least
    half of the scan is left.
    """
    fewest = 8 if long else 2 if told else 3
    case = draw(_without_extras(target, world_sizes, min_frames=fewest, max_frames=24))
    # In reverse the first visit is of the frame before the start. Where that is not told, it is not the first frame.
    first = 1 if case.reverse or not told else 0
    start = max(first, case.start) if case.reverse else min(max(first, case.start), case.frames - 2)
    left = start if case.reverse else case.frames - 1 - start
    # A limit of 0 leaves the start alone; in reverse that is not visited.
    least = 1 if case.reverse or not told else 0
    least = max(least, (left + 1) // 2) if long else least
    limit = left + draw(st.integers(1, case.frames + 4)) if past_the_end else draw(st.integers(least, left))
    visits = _visits_within(case, start, limit, told)
    if resumed:
        last = visits[-1].frame
        beyond = range(last - 1, -1, -1) if case.reverse else range(last + 1, case.frames)
        visits += [Visit(frame, case.reverse, case.geometric) for frame in beyond]
    return replace(case, start=start, visits=tuple(visits))


@st.composite
def scans_with_prompt_a_frame(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(_without_extras(target, world_sizes, min_frames=2, max_frames=12))
    return replace(
        case,
        visits=tuple(replace(visit, geometric=number_of_frame(visit.frame)) for visit in case.calls()),
        geometric=0,
        prompt_a_frame=True,
    )


@st.composite
def scans_under_two_prompts(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(_without_extras(target, world_sizes, max_frames=12, geometric=0))
    first = draw(st.sampled_from([(0, 1), (2, 0), (1, 2)]))
    second = draw(st.sampled_from([(0, 2), (3, 0), (4, 1)]))
    both = [
        tuple(replace(visit, geometric=geometric, text=text) for visit in case.calls())
        for geometric, text in (first, second)
    ]
    cut = draw(st.integers(1, len(both[0])))
    return replace(case, visits=both[0][:cut] + both[1])


@st.composite
def scans_under_changing_prompts(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans under two prompts, of callers that make a new one or change the one that they have."""
    return replace(draw(scans_under_two_prompts(target, world_sizes)), in_place=draw(st.booleans()))


@st.composite
def scans_with_two_buffers(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    case = draw(scans_under_two_prompts(target, world_sizes))
    prompts = [(visit.geometric, visit.text) for visit in case.calls()]
    calls = [
        replace(visit, buffer=int(prompt == prompts[-1])) for visit, prompt in zip(case.calls(), prompts, strict=True)
    ]
    return replace(case, visits=tuple(calls))


@st.composite
def scans_with_prompts_in_batches(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans whose frames have several texts each, or a box prompt in some frames and none in others."""
    case = draw(_without_extras(target, world_sizes, min_frames=2, max_frames=12))
    if draw(st.booleans()):
        return replace(case, prompts=draw(st.integers(2, 3)))
    case = replace(case, geometric=0, prompt_a_frame=True, boxless=draw(st.integers(2, 3)))
    return replace(case, visits=tuple(replace(visit, geometric=case.number_of(visit.frame)) for visit in case.calls()))


def scans_without_tracker(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_of(target, world_sizes, suppression=st.none(), gather=None, tracker=False, features=False)


@st.composite
def scans_by_default(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans that ask for nothing, so that every argument with a default can be left out: forward, as it is."""
    case = draw(_without_extras(target, world_sizes, max_frames=20, reverse=st.just(False)))
    return replace(case, gather=True, features=False, defaults="given")


#: Probabilities and overlaps at which scenes at thresholds have something exactly, and one between two of them.
_AT_THRESHOLDS = (0.5, PROBABILITIES[1]), (0.5, 0.25)


def scans_at_thresholds(target: Target, world_sizes: WorldSizes) -> Scans:
    probabilities, overlaps = _AT_THRESHOLDS
    suppression = st.builds(Suppression, st.sampled_from(probabilities), st.sampled_from(overlaps))
    scans_with_suppression = scans_of(target, world_sizes, max_frames=12, suppression=suppression, gather=False)
    at_thresholds = scans_with_suppression.map(lambda case: replace(case, at_thresholds=True))
    return at_thresholds | at_thresholds.map(_by_pixels)


def _by_pixels(case: Scan) -> Scan:
    return replace(case, by_pixels=True, layout="contiguous")  # rows of such masks differ


def scans_by_pixels(target: Target, world_sizes: WorldSizes) -> Scans:
    """Scans at thresholds as their callers make them: under autocast, of masks larger than its numbers count."""
    return scans_at_thresholds(target, world_sizes).map(lambda case: replace(_by_pixels(case), autocast=True))


def plain_scans(target: Target, world_sizes: WorldSizes) -> Scans:
    return _without_extras(target, world_sizes, max_frames=12)


def short_scans_with_everything(target: Target, world_sizes: WorldSizes) -> Scans:
    return scans_with_everything(target, world_sizes, max_frames=12)


@st.composite
def visits_twice(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans that visit each frame twice in a row."""
    case = draw(plain_scans(target, world_sizes))
    return replace(case, visits=tuple(visit for visit in case.calls() for _ in range(2)))


@st.composite
def scans_asking_late(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> Scan:
    """Draw scans that ask for features, and perhaps for NMS, from a later call on."""
    case = draw(scans_with_everything(target, world_sizes, min_frames=2, max_frames=12))
    return replace(case, asking_from=draw(st.integers(1, max(1, len(case.calls()) - 1))))
