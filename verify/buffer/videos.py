"""Two videos on one model, each with images, a length, prompts, thresholds and a buffer of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from hypothesis import strategies as st

from fixtures.ranks import Ranks, progress
from fixtures.synthetic.scripted_detector import Detected, Playing
from verify.buffer.case import WorldSizes, perhaps_suppressions, scans_with_everything
from verify.buffer.observation import Call, CallFailed, RankSeen, Seen, call_numbered, copied
from verify.engine.case import refuse_unknown_fields
from verify.target.naming import Target
from verify.video.call import frames_kept
from verify.video.detector import is_batched
from verify.video.scan import Scan, scan_from_json, suppressions
from verify.video.scripting import caller_of, script_of, scripted_detector

#: How messages name the two.
VIDEOS = ("first", "second")


@dataclass(frozen=True)
class TwoVideos:
    """A scan of each of two videos on one model."""

    first: Scan
    second: Scan
    #: Whether calls for one and for the other take turns; else the first has gone before the second is begun.
    in_turns: bool = False

    @property
    def world_size(self) -> int:
        return self.first.world_size

    @property
    def both(self) -> tuple[Scan, Scan]:
        return self.first, self.second

    def as_json(self) -> dict[str, Any]:
        return {"first": self.first.as_json(), "second": self.second.as_json(), "in_turns": self.in_turns}


def two_videos_from_json(data: Mapping[str, Any]) -> TwoVideos:
    """Read a case as ``TwoVideos.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(TwoVideos, data)
    if missing := sorted({"first", "second"} - set(data)):
        raise ValueError(f"the case names no {missing[0]} video")
    case = TwoVideos(scan_from_json(data["first"]), scan_from_json(data["second"]), bool(data.get("in_turns", False)))
    if case.first.world_size != case.second.world_size:
        raise ValueError("both videos are scanned by the same ranks, and their world sizes differ")
    return case


@st.composite
def two_videos(draw: st.DrawFn, target: Target, world_sizes: WorldSizes) -> TwoVideos:
    """Draw two videos of other lengths, images, texts and thresholds, or of other images alone.

    NMS is asked for in both or in neither.
    """
    world_size = draw(world_sizes)
    # More than a chunk: what the first video began with has to be there for more than its first call.
    first = draw(scans_with_everything(target, st.just(world_size), min_frames=world_size + 1, max_frames=16))
    asked = draw(perhaps_suppressions(target))
    first = replace(first, suppression=asked, layout=first.layout if asked is None else "contiguous")
    seed = (first.seed + draw(st.integers(1, 255))) % 256
    in_turns = draw(st.booleans())
    if draw(st.booleans()):
        start, reverse = draw(st.integers(0, first.frames - 1)), draw(st.booleans())
        return TwoVideos(first, replace(first, seed=seed, start=start, reverse=reverse), in_turns)
    other = {
        "batch": first.batch,
        "asynchronous": first.asynchronous,
        "seed": seed,
        "text": draw(st.integers(1, 3)),
    }
    if not is_batched(target):  # which takes one text a frame
        other["prompts"] = draw(st.integers(1, 3).filter(lambda prompts: prompts != first.prompts))
    second = scans_with_everything(
        target,
        st.just(world_size),
        max_frames=12,
        suppression=st.none() if asked is None else suppressions().filter(lambda suppression: suppression != asked),
        layouts=(first.layout,),
        **other,
    )
    return TwoVideos(first, draw(second.filter(lambda scan: scan.frames != first.frames)), in_turns)


def _play(
    target: Target, model: Any, video: Scan, number: int, playing: Playing, detected: list[Detected]
) -> Iterator[Call]:
    """Make the calls for a video. What the caller has for it is made with the first, and goes after the last."""
    inputs_of = caller_of(target, video, number)
    buffer: dict[Any, Any] = {}
    for call, visit in enumerate(video.calls()):
        playing.video, before = number, len(detected)
        try:
            answer = copied(call_numbered(target, model, video, call, visit, inputs_of(visit), buffer))
        except CallFailed as error:
            raise CallFailed(f"{VIDEOS[number]} video, {error}") from error.__cause__
        progress()
        yield Call(call, visit, answer, frames_kept(target, buffer, video.frames), tuple(detected[before:]))


def _play_both(rank: int, world_size: int, target: Target, case: TwoVideos) -> tuple[tuple[Call, ...], ...]:
    """One rank's calls for each of the two videos."""
    detected: list[Detected] = []
    playing = Playing()
    prompts = max(video.prompts for video in case.both)  # so that texts of the one can be asked of the other
    scripts = [replace(script_of(video), prompts=prompts) for video in case.both]
    model = scripted_detector(target, case.first, scripts, rank, detected, playing)
    plays = [_play(target, model, video, number, playing, detected) for number, video in enumerate(case.both)]
    if not case.in_turns:
        return tuple(tuple(play) for play in plays)
    turns = list(zip_longest(*plays))
    return tuple(tuple(call for call in calls if call is not None) for calls in zip(*turns, strict=True))


def observe_two_videos(ranks: Ranks, target: Target, case: TwoVideos) -> tuple[Seen, ...]:
    """Run a case with the scripted detector, which is told by an image whose it is; give what each video's ranks saw.

    Raises:
        RanksFailed: when a rank fails, dies or hangs.
    """
    results = ranks.run(_play_both, case.world_size, target, case)
    return tuple(
        Seen(video, tuple(RankSeen(result.rank, result.value[number], ()) for result in results))
        for number, video in enumerate(case.both)
    )
