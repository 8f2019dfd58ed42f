"""What a batched buffer promises while a clip is scanned, as pure arithmetic on frame numbers.

Its name may speak of several GPUs: nothing is shared between ranks, each detects whole batches of consecutive frames.

* *Chunks are groups of* ``batch_size`` *frames, aligned to multiples of it and cut at the clip's end.*
* *A chunk is detected, all of its frames together, when a frame of it is first asked for*; nothing is built ahead.
  A batch may be filled up with frames of its own chunk, as long as what is repeated is in no answer.
* *When the scan leaves a chunk, the chunk goes*: after every call the buffer holds the chunk that the scan is in.

The frames that a scan under a limit visits are those of the package's own order of processing (``visits_within``).
"""

from __future__ import annotations

from reference.oracle import schedule
from reference.oracle.schedule import Step


def scan(frames: int, batch_size: int, start: int = 0, reverse: bool = False) -> tuple[Step, ...]:
    """Give the steps of a sequential scan that starts with an empty buffer, one for each visited frame.

    ``start`` is a frame number in both directions.

    Raises:
        ValueError: for a clip without frames, a batch size below 1, or a start outside the clip.
    """
    if batch_size < 1:
        raise ValueError(f"a batch has at least 1 frame, not {batch_size}")
    chunk_of = {frame: chunk for chunk in schedule.chunks(frames, batch_size) for frame in chunk}
    steps: list[Step] = []
    left: tuple[int, ...] = ()  # the chunk of the call before; none before the first
    for frame in schedule.visits(frames, start, reverse):
        chunk = chunk_of[frame]
        entered = chunk != left
        steps.append(
            Step(
                frame=frame,
                chunk=chunk,
                built=(chunk,) if entered else (),
                resident=frozenset(chunk),
                evicted=frozenset(left) if entered else frozenset(),
                prefetched=(),
            )
        )
        left = chunk
    return tuple(steps)


def visits_within(frames: int, start: int, limit: int, reverse: bool) -> tuple[int, ...]:
    """Give the frames that sam3's video predictors visit under ``max_frame_num_to_track``, in order.

    Forwards ``start`` to ``start + limit``, in reverse ``start - 1`` to ``start - limit``; none outside the clip. This
    is what the method ``_get_processing_order`` of the predictors gives (``sam3_video_inference`` in sam3 0.1.4 and
    SAM 3.1, ``sam3_multiplex_tracking`` in SAM 3.1).

    Raises:
        ValueError: for a clip without frames, a start outside it, or a limit below 0.
    """
    schedule.visits(frames, start, reverse)  # refuses a clip or a start that cannot be
    if limit < 0:
        raise ValueError(f"a limit is no less than 0 frames, not {limit}")
    if reverse:
        return tuple(range(start - 1, max(start - limit, 0) - 1, -1))
    return tuple(range(start, min(start + limit, frames - 1) + 1))
