"""The model of a batched buffer against tables written by hand, and against what must hold of every scan."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.oracle import schedule
from reference.oracle.batches import scan, visits_within
from reference.oracle.schedule import Step

A, B, C = (0, 1, 2, 3), (4, 5, 6, 7), (8, 9)  # ten frames in batches of four


def _enters(frame: int, chunk: tuple[int, ...], left: tuple[int, ...] = ()) -> Step:
    return Step(frame, chunk, built=(chunk,), resident=frozenset(chunk), evicted=frozenset(left), prefetched=())


def _stays(frame: int, chunk: tuple[int, ...]) -> Step:
    return Step(frame, chunk, built=(), resident=frozenset(chunk), evicted=frozenset(), prefetched=())


FORWARD = (
    _enters(0, A),
    _stays(1, A),
    _stays(2, A),
    _stays(3, A),
    _enters(4, B, left=A),
    _stays(5, B),
    _stays(6, B),
    _stays(7, B),
    _enters(8, C, left=B),
    _stays(9, C),
)
REVERSE = (
    _enters(9, C),
    _stays(8, C),
    _enters(7, B, left=C),
    _stays(6, B),
    _stays(5, B),
    _stays(4, B),
    _enters(3, A, left=B),
    _stays(2, A),
    _stays(1, A),
    _stays(0, A),
)
FORWARD_FROM_6 = (_enters(6, B), _stays(7, B), _enters(8, C, left=B), _stays(9, C))
REVERSE_FROM_5 = (
    _enters(5, B),
    _stays(4, B),
    _enters(3, A, left=B),
    _stays(2, A),
    _stays(1, A),
    _stays(0, A),
)


@pytest.mark.parametrize(
    ("start", "reverse", "table"),
    [
        pytest.param(0, False, FORWARD, id="forward"),
        pytest.param(9, True, REVERSE, id="reverse"),
        pytest.param(6, False, FORWARD_FROM_6, id="forward from within a chunk"),
        pytest.param(5, True, REVERSE_FROM_5, id="reverse from within a chunk"),
        pytest.param(9, False, (_enters(9, C),), id="the last frame only"),
        pytest.param(0, True, (_enters(0, A),), id="the first frame only"),
    ],
)
def test_ten_frames_in_batches_of_four(start: int, reverse: bool, table: tuple[Step, ...]) -> None:
    assert scan(10, 4, start, reverse) == table


def test_a_scan_starts_at_frame_0_and_goes_forward_unless_told_otherwise() -> None:
    assert scan(10, 4) == FORWARD


def test_a_clip_shorter_than_a_batch_is_one_chunk() -> None:
    assert scan(3, 16) == (_enters(0, (0, 1, 2)), _stays(1, (0, 1, 2)), _stays(2, (0, 1, 2)))


def test_batches_of_one_enter_a_chunk_at_every_call() -> None:
    assert scan(3, 1, 2, True) == (_enters(2, (2,)), _enters(1, (1,), left=(2,)), _enters(0, (0,), left=(1,)))


@pytest.mark.parametrize(("frames", "batch", "start"), [(0, 4, 0), (10, 0, 0), (10, -1, 0), (10, 4, 10), (10, 4, -1)])
def test_a_scan_that_cannot_be_is_refused(frames: int, batch: int, start: int) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        scan(frames, batch, start)


@pytest.mark.parametrize(
    ("frames", "start", "limit", "reverse", "visited"),
    [
        pytest.param(10, 0, 5, False, (0, 1, 2, 3, 4, 5), id="one frame more than the limit"),
        pytest.param(10, 3, 0, False, (3,), id="the start alone"),
        pytest.param(10, 3, 2, False, (3, 4, 5), id="from within the clip"),
        pytest.param(10, 7, 2, False, (7, 8, 9), id="to the last frame"),
        pytest.param(10, 7, 3, False, (7, 8, 9), id="past the end"),
        pytest.param(10, 9, 30, False, (9,), id="the last frame only"),
        pytest.param(10, 9, 5, True, (8, 7, 6, 5, 4), id="in reverse without the start"),
        pytest.param(10, 3, 3, True, (2, 1, 0), id="in reverse to the first frame"),
        pytest.param(10, 3, 30, True, (2, 1, 0), id="in reverse past the beginning"),
        pytest.param(10, 0, 1, True, (), id="in reverse from the first frame: none"),
        pytest.param(1, 0, 1, False, (0,), id="a clip of one frame"),
    ],
)
def test_what_a_limited_scan_visits(
    frames: int, start: int, limit: int, reverse: bool, visited: tuple[int, ...]
) -> None:
    assert visits_within(frames, start, limit, reverse) == visited


@pytest.mark.parametrize(("frames", "start", "limit"), [(0, 0, 1), (10, 10, 1), (10, -1, 1), (10, 0, -3)])
def test_a_limit_that_cannot_be_is_refused(frames: int, start: int, limit: int) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        visits_within(frames, start, limit, False)


@st.composite
def _scans(draw: st.DrawFn) -> tuple[int, int, int, bool]:
    frames = draw(st.integers(1, 40))
    return frames, draw(st.integers(1, 48)), draw(st.integers(0, frames - 1)), draw(st.booleans())


@given(_scans())
def test_every_frame_is_in_the_buffer_when_it_is_delivered(drawn: tuple[int, int, int, bool]) -> None:
    frames, batch, start, reverse = drawn
    steps = scan(*drawn)
    assert [step.frame for step in steps] == list(schedule.visits(frames, start, reverse))
    for step in steps:
        assert step.frame in step.chunk
        assert step.resident == frozenset(step.chunk)
        assert len(step.chunk) <= batch
        assert all(0 <= frame < frames for frame in step.chunk)
        assert {frame // batch for frame in step.chunk} == {step.frame // batch}
        assert len(step.chunk) == batch or step.chunk[-1] == frames - 1


@given(_scans())
def test_a_chunk_is_built_once_and_leaves_once(drawn: tuple[int, int, int, bool]) -> None:
    steps = scan(*drawn)
    built = [chunk for step in steps for chunk in step.built]
    assert len(built) == len(set(built))
    assert set(built) == {step.chunk for step in steps}
    assert all(not step.prefetched for step in steps)
    for before, after in pairwise(steps):
        assert after.resident == before.resident - after.evicted | {frame for chunk in after.built for frame in chunk}
        assert bool(after.evicted) == bool(after.built) == (before.chunk != after.chunk)
    assert not steps[0].evicted


@given(_scans())
def test_reverse_is_forward_mirrored(drawn: tuple[int, int, int, bool]) -> None:
    frames, batch, _, _ = drawn
    there, back = scan(frames, batch), scan(frames, batch, frames - 1, True)
    assert [(step.frame, step.chunk) for step in back] == [(step.frame, step.chunk) for step in reversed(there)]


@given(_scans(), st.integers(1, 60))
def test_a_limited_scan_is_the_beginning_of_one_without(drawn: tuple[int, int, int, bool], limit: int) -> None:
    frames, _, start, reverse = drawn
    whole = schedule.visits(frames, start, reverse)[int(reverse) :]
    assert visits_within(frames, start, limit, reverse) == whole[: limit + (not reverse)]
