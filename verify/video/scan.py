"""A scan of a clip by a number of ranks, and how scans are drawn: a case of every group that calls the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.scripted_detector import LAYOUTS
from reference.oracle import batches, schedule
from reference.oracle.detection import Suppression
from verify.engine.case import changed_fields, refuse_unknown_fields

MAX_FRAMES = 40
#: Logits between the scripted detector's levels, as probabilities: no score is ever at a threshold.
PROBABILITIES = (0.0953494648991, 0.3208213008246, 0.6791786991753, 0.9046505351009)
#: No ratio of two areas of a scripted mask (at most 64 pixels) equals one of these.
OVERLAPS = (0.101, 0.31, 0.523, 0.737)


@dataclass(frozen=True)
class Visit:
    """One call of the buffer: which frame, in which direction, under which prompts."""

    frame: int
    reverse: bool = False
    #: Number of the geometric prompt given with the call, 0 to 15; 0 is the empty prompt of a text-only scan.
    geometric: int = 0
    #: Number of the text given with the call, 0 to 3.
    text: int = 0
    #: ``max_frame_num_to_track`` of the call, where the scan is limited; counted from ``limit_from``, which the call is
    #: told unless it is None.
    limit: int | None = None
    limit_from: int | None = 0
    #: Which buffer is handed over, 0 or 1; each is empty at first.
    buffer: int = 0


def number_of_frame(frame: int) -> int:
    """Number of the geometric prompt of a frame, where prompts differ: never the empty prompt, which has none."""
    return frame % 15 + 1


@dataclass(frozen=True)
class Scan:
    """A scan, or any list of visits, with one buffer."""

    frames: int
    world_size: int
    start: int = 0
    reverse: bool = False
    #: ``batch_size`` of a batched buffer; 0: the buffer has a chunk of one frame a rank.
    batch: int = 0
    #: Calls in order; None: the sequential scan from ``start`` in the direction of ``reverse``.
    visits: tuple[Visit, ...] | None = None
    #: Number of the geometric prompt of every call of the sequential scan.
    geometric: int = 0
    #: Number of the text of every call of the sequential scan.
    text: int = 0
    #: Whether the prompts of frames differ: that of frame t has the number ``number_of_frame(t)``.
    prompt_a_frame: bool = False
    #: Where the prompts of frames differ, every so many frames there is one without a box; 0: there is none.
    boxless: int = 0
    #: Text prompts a frame.
    prompts: int = 1
    #: The only one of them that the stages ask for; None: each. So are visual prompts asked for, the second text.
    asks: int | None = None
    #: ``gather_backbone_out`` of the detector's constructor; its default (None) follows from the backbone.
    gather: bool | None = True
    #: Whether the model has a tracker neck.
    tracker: bool = True
    #: Whether the calls ask for tracker features.
    features: bool = True
    #: ``async_all_gather`` of the detector's constructor.
    asynchronous: bool = True
    suppression: Suppression | None = None
    #: The number of the call from which on tracker features and NMS are asked for, as above; before it neither is.
    asking_from: int = 0
    #: Whether the caller has one prompt, one text and one list of stages, and changes them in place.
    in_place: bool = False
    #: "given" or "left out": the calls give sam3's default for every argument that may be left out, or leave it out.
    defaults: str | None = None
    #: Whether the scripted detector's scores and overlaps lie exactly at thresholds.
    at_thresholds: bool = False
    #: Whether those overlaps are of large masks, and next to thresholds by a pixel.
    by_pixels: bool = False
    #: Whether the calls are made under bfloat16 autocast (scripted detector).
    autocast: bool = False
    #: Memory layout of the scripted detector's outputs.
    layout: str = "contiguous"
    ranks_per_node: int | None = None
    #: Box prompts a frame (real detector).
    boxes: int = 0
    #: Whether the caller has the images in a list, as loaders of videos do (real detector).
    listed: bool = False
    seed: int = 0

    def calls(self) -> tuple[Visit, ...]:
        if self.visits is not None:
            return self.visits
        order = schedule.visits(self.frames, self.start, self.reverse)
        return tuple(Visit(frame, self.reverse, self.geometric, self.text) for frame in order)

    @property
    def asked_texts(self) -> tuple[int, ...]:
        """Numbers of the texts that each stage asks for."""
        return tuple(range(self.prompts)) if self.asks is None else (self.asks,)

    @property
    def rows(self) -> int:
        """Queries of a stage."""
        return len(self.asked_texts)

    def steps(self) -> tuple[schedule.Step, ...]:
        """What the buffer promises for each call of the sequential scan."""
        if self.batch:
            return batches.scan(self.frames, self.batch, self.start, self.reverse)
        return schedule.scan(self.frames, self.world_size, self.start, self.reverse)

    @property
    def chunk_size(self) -> int:
        """Frames of a chunk."""
        return self.batch or self.world_size

    def own_rank(self, frame: int, rank: int) -> int:
        """Which rank's detection of ``frame`` the buffer of ``rank`` answers with: in batches each has its own."""
        return rank if self.batch else schedule.detecting_rank(frame, self.world_size)

    def number_of(self, frame: int) -> int:
        """The number of a frame's own geometric prompt, where the prompts of frames differ."""
        return 0 if self.boxless and frame % self.boxless == 0 else number_of_frame(frame)

    def asked(self, call: int) -> Scan:
        """The case as a call of this number asks for it."""
        return replace(self, suppression=None, features=False) if call < self.asking_from else self

    def numbers(self, visit: Visit) -> tuple[int, ...]:
        """The number of each frame's own geometric prompt during a visit."""
        return tuple(self.number_of(frame) if self.prompt_a_frame else visit.geometric for frame in range(self.frames))

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; frames and world size always."""
        return changed_fields(self, "frames", "world_size")


def scan_from_json(data: Mapping[str, Any]) -> Scan:
    """Read a case as ``Scan.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Scan, data)
    values = dict(data)
    try:
        if values.get("visits") is not None:
            values["visits"] = tuple(Visit(**visit) for visit in values["visits"])
        if values.get("suppression") is not None:
            values["suppression"] = Suppression(**values["suppression"])
        case = Scan(**values)
        if case.visits is None:
            case.steps()
        elif any(not 0 <= visit.frame < case.frames for visit in case.visits):
            raise ValueError(f"a visit lies outside the clip's {case.frames} frames")
    except TypeError as error:
        raise ValueError(str(error)) from None
    return case


def suppressions(iom: bool = False) -> st.SearchStrategy[Suppression]:
    """Thresholds of NMS. With a probability of 0 every detection takes part, and 0 is easily taken for none."""
    return st.builds(
        Suppression,
        probability=st.sampled_from(PROBABILITIES) | st.just(0.0),
        iou=st.sampled_from(OVERLAPS),
        use_iom=st.booleans() if iom else st.just(False),
    )


def batch_sizes(frames: int) -> st.SearchStrategy[int]:
    """Batch sizes up to the 16 that SAM 3.1's predictor takes, and as often such that a clip has several batches."""
    return st.integers(1, max(1, frames // 3)) | st.integers(1, 16)


@st.composite
def scans(
    draw: st.DrawFn,
    world_sizes: st.SearchStrategy[int],
    max_frames: int = MAX_FRAMES,
    min_frames: int = 1,
    reverse: st.SearchStrategy[bool] | None = None,
    suppression: st.SearchStrategy[Suppression | None] | None = None,
    layouts: tuple[str, ...] = LAYOUTS,
    from_end: bool = False,
    batched: bool = False,
    **fixed: Any,
) -> Scan:
    """Draw sequential scans: clip lengths that are multiples of the world size and not, and shorter than it.

    ``from_end``: start at the clip's first frame in the direction, so that the scan visits all of it. ``batched``: for
    a batched buffer, which takes one text prompt a frame.
    """
    world_size = draw(world_sizes)
    # Short clips show most, and cost least: around one chunk, and a few chunks with a tail.
    frames = draw(st.integers(min_frames, min(12, max_frames)) | st.integers(min_frames, max_frames))
    backwards = draw(reverse if reverse is not None else st.booleans())
    full = from_end or draw(st.sampled_from((True, False, False)))
    start = (frames - 1 if backwards else 0) if full else draw(st.integers(0, frames - 1))
    values: dict[str, Any] = {
        "geometric": draw(st.integers(0, 15)),
        "prompts": draw(st.integers(1, 3)),
        "gather": draw(st.booleans()),
        "asynchronous": draw(st.booleans()),
        "suppression": draw(suppression if suppression is not None else st.none() | suppressions()),
        "layout": "contiguous",
        "seed": draw(st.integers(0, 255)),
    }
    if batched:
        values |= {"batch": draw(batch_sizes(frames)), "prompts": 1}
    if {**values, **fixed}["suppression"] is None:  # sam3's NMS itself takes contiguous masks only
        values["layout"] = draw(st.sampled_from(layouts))
    return Scan(frames, world_size, start, backwards, **{**values, **fixed})
