"""What a chunked multi-rank buffer promises while a clip is scanned, as pure arithmetic on frame numbers.

The model is derived from the promises, one definition for each:

* *Chunks are groups of* ``world_size`` *frames, aligned to multiples of it*: frames of equal ``frame // world_size``.
* *A chunk is built when a frame of it is asked for and it is missing, and the next one in the direction of the scan
  is built ahead of need*: from an empty buffer the first call builds two chunks; from then on the scan finds every
  chunk built, and only the call that enters a chunk builds one, the next.
* *The chunk just left goes when the scan enters another*: so after every call the buffer holds the chunk that the scan
  is in and the next one, at the end of the clip only the former.
* *Rank* r *detects frame* b + r *of a chunk that begins at* b, *past the clip's end the clip's last frame again*.

A step follows from the step before it and no further back, so no buffer has to be simulated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Step:
    """What one call of a sequential scan promises. All numbers are frames of the clip, from 0."""

    #: The frame that is delivered.
    frame: int
    #: All frames of the chunk that it belongs to, ascending.
    chunk: tuple[int, ...]
    #: The chunks that are detected during this call, in order.
    built: tuple[tuple[int, ...], ...]
    #: The frames in the buffer after the call.
    resident: frozenset[int]
    #: The frames that leave the buffer during the call.
    evicted: frozenset[int]
    #: The next chunk in the direction of the scan, ``()`` where there is none. In the buffer after the call.
    prefetched: tuple[int, ...]


def _check_world(world_size: int) -> None:
    if world_size < 1:
        raise ValueError(f"the world size must be at least 1, not {world_size}")


def _check_clip(frames: int) -> None:
    if frames < 1:
        raise ValueError(f"a clip has at least 1 frame, not {frames}")


def _check_rank(rank: int) -> None:
    if rank < 0:
        raise ValueError(f"a rank is at least 0, not {rank}")


def chunks(frames: int, world_size: int) -> tuple[tuple[int, ...], ...]:
    """Give the clip's chunks in order of time; the last one may be shorter than ``world_size``.

    Raises:
        ValueError: for a clip without frames or a world size below 1.
    """
    _check_clip(frames)
    _check_world(world_size)
    return tuple(tuple(group) for _, group in groupby(range(frames), key=lambda frame: frame // world_size))


def visits(frames: int, start: int, reverse: bool) -> tuple[int, ...]:
    """Give the frames of a sequential scan in order: ``start`` to the clip's last frame, or in reverse down to 0.

    Raises:
        ValueError: for a clip without frames or a start outside it.
    """
    _check_clip(frames)
    if not 0 <= start < frames:
        raise ValueError(f"the scan starts at frame {start}, but the clip has frames 0 to {frames - 1}")
    return tuple(range(start, -1, -1)) if reverse else tuple(range(start, frames))


def scan(frames: int, world_size: int, start: int = 0, reverse: bool = False) -> tuple[Step, ...]:
    """Give the steps of a sequential scan that starts with an empty buffer, one for each visited frame.

    ``start`` is a frame number in both directions: a full scan in reverse starts at ``frames - 1``. The chunks that
    a scan from within a chunk enters or prefetches are whole, frames that it never visits included.

    Raises:
        ValueError: for a clip without frames, a world size below 1, or a start outside the clip.
    """
    ordered = chunks(frames, world_size)
    if reverse:
        ordered = ordered[::-1]
    followed_by = dict(zip(ordered, (*ordered[1:], ()), strict=True))
    chunk_of = {frame: chunk for chunk in ordered for frame in chunk}
    steps: list[Step] = []
    previous: tuple[int, ...] = ()  # the chunk of the call before; none before the first
    for frame in visits(frames, start, reverse):
        chunk = chunk_of[frame]
        following = followed_by[chunk]
        entered = chunk != previous
        needed = (following,) if previous else (chunk, following)
        steps.append(
            Step(
                frame=frame,
                chunk=chunk,
                built=tuple(wanted for wanted in needed if wanted) if entered else (),
                resident=frozenset(chunk + following),
                evicted=frozenset(previous) if entered else frozenset(),
                prefetched=following,
            )
        )
        previous = chunk
    return tuple(steps)


def detecting_rank(frame: int, world_size: int) -> int:
    """Give the rank that detects ``frame`` as its own; padding ranks may repeat the clip's last frame besides.

    Raises:
        ValueError: for a negative frame or a world size below 1.
    """
    _check_world(world_size)
    if frame < 0:
        raise ValueError(f"a frame number is at least 0, not {frame}")
    return frame % world_size


def is_padding(chunk_begin: int, rank: int, frames: int) -> bool:
    """Tell whether ``rank`` has no frame of its own in the chunk that begins at frame ``chunk_begin``.

    Raises:
        ValueError: for a clip without frames, a negative rank, or a chunk that begins outside the clip.
    """
    _check_clip(frames)
    _check_rank(rank)
    if not 0 <= chunk_begin < frames:
        raise ValueError(f"no chunk begins at frame {chunk_begin}: the clip has frames 0 to {frames - 1}")
    return chunk_begin + rank >= frames


def share(steps: Iterable[Step], rank: int, world_size: int, frames: int) -> tuple[int, ...]:
    """Give the frame that ``rank`` detects for each chunk that ``steps`` build, in the order they are built.

    A padding rank detects the clip's last frame, so that every rank takes part in every gather.

    Raises:
        ValueError: for a clip without frames, a world size below 1, or a rank outside the world.
    """
    _check_clip(frames)
    _check_world(world_size)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is outside a world of {world_size}: ranks are 0 to {world_size - 1}")
    return tuple(
        frames - 1 if is_padding(chunk[0], rank, frames) else chunk[0] + rank for step in steps for chunk in step.built
    )
