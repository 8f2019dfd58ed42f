"""The schedule model against tables written by hand, and against what must hold of every schedule."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.oracle.schedule import Step, chunks, detecting_rank, is_padding, scan, share, visits

A, B, C = (0, 1, 2, 3), (4, 5, 6, 7), (8, 9)  # ten frames on four ranks
NONE = frozenset[int]()


def _frames(*parts: tuple[int, ...]) -> frozenset[int]:
    return frozenset(frame for part in parts for frame in part)


FORWARD = (
    Step(0, A, built=(A, B), resident=_frames(A, B), evicted=NONE, prefetched=B),
    Step(1, A, built=(), resident=_frames(A, B), evicted=NONE, prefetched=B),
    Step(2, A, built=(), resident=_frames(A, B), evicted=NONE, prefetched=B),
    Step(3, A, built=(), resident=_frames(A, B), evicted=NONE, prefetched=B),
    Step(4, B, built=(C,), resident=_frames(B, C), evicted=_frames(A), prefetched=C),
    Step(5, B, built=(), resident=_frames(B, C), evicted=NONE, prefetched=C),
    Step(6, B, built=(), resident=_frames(B, C), evicted=NONE, prefetched=C),
    Step(7, B, built=(), resident=_frames(B, C), evicted=NONE, prefetched=C),
    Step(8, C, built=(), resident=_frames(C), evicted=_frames(B), prefetched=()),
    Step(9, C, built=(), resident=_frames(C), evicted=NONE, prefetched=()),
)
REVERSE = (
    Step(9, C, built=(C, B), resident=_frames(C, B), evicted=NONE, prefetched=B),
    Step(8, C, built=(), resident=_frames(C, B), evicted=NONE, prefetched=B),
    Step(7, B, built=(A,), resident=_frames(B, A), evicted=_frames(C), prefetched=A),
    Step(6, B, built=(), resident=_frames(B, A), evicted=NONE, prefetched=A),
    Step(5, B, built=(), resident=_frames(B, A), evicted=NONE, prefetched=A),
    Step(4, B, built=(), resident=_frames(B, A), evicted=NONE, prefetched=A),
    Step(3, A, built=(), resident=_frames(A), evicted=_frames(B), prefetched=()),
    Step(2, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
    Step(1, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
    Step(0, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
)
FORWARD_FROM_6 = (
    Step(6, B, built=(B, C), resident=_frames(B, C), evicted=NONE, prefetched=C),
    Step(7, B, built=(), resident=_frames(B, C), evicted=NONE, prefetched=C),
    Step(8, C, built=(), resident=_frames(C), evicted=_frames(B), prefetched=()),
    Step(9, C, built=(), resident=_frames(C), evicted=NONE, prefetched=()),
)
REVERSE_FROM_5 = (
    Step(5, B, built=(B, A), resident=_frames(B, A), evicted=NONE, prefetched=A),
    Step(4, B, built=(), resident=_frames(B, A), evicted=NONE, prefetched=A),
    Step(3, A, built=(), resident=_frames(A), evicted=_frames(B), prefetched=()),
    Step(2, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
    Step(1, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
    Step(0, A, built=(), resident=_frames(A), evicted=NONE, prefetched=()),
)
FORWARD_FROM_9 = (Step(9, C, built=(C,), resident=_frames(C), evicted=NONE, prefetched=()),)


@pytest.mark.parametrize(
    ("start", "reverse", "table"),
    [
        pytest.param(0, False, FORWARD, id="forward"),
        pytest.param(9, True, REVERSE, id="reverse"),
        pytest.param(6, False, FORWARD_FROM_6, id="forward from within a chunk"),
        pytest.param(5, True, REVERSE_FROM_5, id="reverse from within a chunk"),
        pytest.param(9, False, FORWARD_FROM_9, id="the last frame only"),
    ],
)
def test_ten_frames_on_four_ranks(start: int, reverse: bool, table: tuple[Step, ...]) -> None:
    assert scan(10, 4, start, reverse) == table


def test_a_scan_starts_at_frame_0_and_goes_forward_unless_told_otherwise() -> None:
    assert scan(10, 4) == FORWARD


def test_one_rank_builds_the_next_frame_at_every_call() -> None:
    assert [step.built for step in scan(3, 1)] == [((0,), (1,)), ((2,),), ()]
    assert [step.evicted for step in scan(3, 1)] == [NONE, {0}, {1}]


def test_fewer_frames_than_ranks_make_one_chunk() -> None:
    assert chunks(2, 4) == ((0, 1),)
    assert scan(2, 4) == (
        Step(0, (0, 1), built=((0, 1),), resident=frozenset({0, 1}), evicted=NONE, prefetched=()),
        Step(1, (0, 1), built=(), resident=frozenset({0, 1}), evicted=NONE, prefetched=()),
    )


@pytest.mark.parametrize(
    ("rank", "forward", "reverse"),
    [(0, (0, 4, 8), (8, 4, 0)), (1, (1, 5, 9), (9, 5, 1)), (2, (2, 6, 9), (9, 6, 2)), (3, (3, 7, 9), (9, 7, 3))],
)
def test_share_of_each_rank(rank: int, forward: tuple[int, ...], reverse: tuple[int, ...]) -> None:
    assert share(FORWARD, rank, 4, 10) == forward
    assert share(REVERSE, rank, 4, 10) == reverse


def test_padding_starts_past_the_clips_end() -> None:
    assert [is_padding(8, rank, 10) for rank in range(4)] == [False, False, True, True]
    assert not any(is_padding(4, rank, 10) for rank in range(4))


def test_visits_include_both_ends() -> None:
    assert visits(4, 1, reverse=False) == (1, 2, 3)
    assert visits(4, 1, reverse=True) == (1, 0)
    assert visits(1, 0, reverse=False) == visits(1, 0, reverse=True) == (0,)


FRAMES = st.integers(1, 40)
WORLDS = st.integers(1, 9)


def _full(frames: int, world_size: int, reverse: bool) -> tuple[Step, ...]:
    return scan(frames, world_size, frames - 1 if reverse else 0, reverse)


@st.composite
def _partial(draw: st.DrawFn) -> tuple[int, int, int, bool]:
    frames = draw(FRAMES)
    return frames, draw(WORLDS), draw(st.integers(0, frames - 1)), draw(st.booleans())


@given(FRAMES, WORLDS)
def test_chunks_are_aligned_and_cover_the_clip(frames: int, world_size: int) -> None:
    parts = chunks(frames, world_size)
    assert [frame for part in parts for frame in part] == list(range(frames))
    assert all(part[0] % world_size == 0 for part in parts)
    assert all(len(part) == world_size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= world_size


@given(_partial())
def test_a_buffer_that_obeys_the_steps_always_has_what_is_asked_for(case: tuple[int, int, int, bool]) -> None:
    frames, world_size, start, reverse = case
    held: set[int] = set()
    steps = scan(frames, world_size, start, reverse)
    for step in steps:
        built = {frame for chunk in step.built for frame in chunk}
        assert not built & held, "built although it was there"
        assert step.evicted <= held, "evicted although it was not there"
        held = (held | built) - step.evicted
        assert held == step.resident
        assert step.frame in step.chunk
        assert set(step.chunk) | set(step.prefetched) == held
        assert len({frame // world_size for frame in held}) <= 2
    assert len({frame // world_size for frame in held}) == 1
    assert tuple(step.frame for step in steps) == visits(frames, start, reverse)


@given(FRAMES, WORLDS, st.booleans())
def test_a_full_scan_builds_every_frame_once_and_evicts_none_undelivered(
    frames: int, world_size: int, reverse: bool
) -> None:
    steps = _full(frames, world_size, reverse)
    built = [frame for step in steps for chunk in step.built for frame in chunk]
    assert sorted(built) == list(range(frames))
    delivered: set[int] = set()
    for step in steps:
        assert step.evicted <= delivered
        delivered.add(step.frame)
    evicted = [frame for step in steps for frame in step.evicted]
    assert sorted((*evicted, *steps[-1].resident)) == list(range(frames))


@given(_partial())
def test_only_the_call_that_enters_a_chunk_builds_or_evicts(case: tuple[int, int, int, bool]) -> None:
    steps = scan(*case)
    for before, step in pairwise(steps):
        if step.chunk == before.chunk:
            assert (step.built, step.evicted) == ((), NONE)
            assert (step.resident, step.prefetched) == (before.resident, before.prefetched)
        else:
            assert before.prefetched == step.chunk, "the next chunk was there before it was needed"
            assert step.evicted == set(before.chunk)


@given(st.integers(1, 6), WORLDS)
def test_reverse_mirrors_forward_where_no_chunk_is_short(whole_chunks: int, world_size: int) -> None:
    frames = whole_chunks * world_size
    last = frames - 1

    def mirror(parts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(last - frame for frame in parts))

    mirrored = tuple(
        Step(
            frame=last - step.frame,
            chunk=mirror(step.chunk),
            built=tuple(mirror(chunk) for chunk in step.built),
            resident=frozenset(last - frame for frame in step.resident),
            evicted=frozenset(last - frame for frame in step.evicted),
            prefetched=mirror(step.prefetched),
        )
        for step in scan(frames, world_size)
    )
    assert scan(frames, world_size, last, reverse=True) == mirrored


@given(FRAMES, WORLDS, st.booleans())
def test_ranks_share_every_frame_once_but_for_padding(frames: int, world_size: int, reverse: bool) -> None:
    steps = _full(frames, world_size, reverse)
    begins = [chunk[0] for step in steps for chunk in step.built]
    own = []
    for rank in range(world_size):
        detected = share(steps, rank, world_size, frames)
        assert len(detected) == len(begins), "every rank takes part in every chunk"
        for begin, frame in zip(begins, detected, strict=True):
            if is_padding(begin, rank, frames):
                assert frame == frames - 1
            else:
                assert begin <= frame < begin + world_size
                assert detecting_rank(frame, world_size) == rank
                own.append(frame)
    assert sorted(own) == list(range(frames))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunks(0, 2), r"at least 1 frame, not 0"),
        (lambda: chunks(3, 0), r"world size must be at least 1, not 0"),
        (lambda: visits(0, 0, False), r"at least 1 frame, not 0"),
        (lambda: visits(3, 3, False), r"starts at frame 3, but the clip has frames 0 to 2"),
        (lambda: visits(3, -1, True), r"starts at frame -1, but the clip has frames 0 to 2"),
        (lambda: scan(0, 1), r"at least 1 frame, not 0"),
        (lambda: scan(3, -1), r"world size must be at least 1, not -1"),
        (lambda: scan(3, 2, 7), r"starts at frame 7, but the clip has frames 0 to 2"),
        (lambda: detecting_rank(1, 0), r"world size must be at least 1, not 0"),
        (lambda: detecting_rank(-1, 2), r"frame number is at least 0, not -1"),
        (lambda: is_padding(0, 0, 0), r"at least 1 frame, not 0"),
        (lambda: is_padding(4, 0, 4), r"no chunk begins at frame 4: the clip has frames 0 to 3"),
        (lambda: is_padding(-2, 0, 4), r"no chunk begins at frame -2"),
        (lambda: is_padding(0, -1, 4), r"rank is at least 0, not -1"),
        (lambda: share((), 0, 1, 0), r"at least 1 frame, not 0"),
        (lambda: share((), 0, 0, 1), r"world size must be at least 1, not 0"),
        (lambda: share((), 2, 2, 4), r"rank 2 is outside a world of 2: ranks are 0 to 1"),
        (lambda: share((), -1, 2, 4), r"rank -1 is outside"),
    ],
)
def test_bad_input_says_what_is_wrong(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
