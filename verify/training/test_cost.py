"""What training on clips costs: encodings, memory, what is kept, what is printed."""

from __future__ import annotations

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.check import HAZARD
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.training.agreement import assert_encoded_once, assert_same_outputs, encodings_by_module
from verify.training.case import any_clips, short_clips
from verify.training.cost import Kept, keep_clip, measure_memory
from verify.training.group import Observe, trained, training_check
from verify.training.observation import Trained


@training_check(any_clips, observation=trained)
def test_encoded_once(case: Training, observe: Observe, target: Target) -> None:
    """Each frame goes through the image backbone exactly once in a training step.

    With and without a segmentation head. The backbone is most of the model: frames encoded twice cost nearly twice
    the time and memory, and the first pass of them is thrown away.
    """
    seen: Trained = observe(case)
    modules = encodings_by_module(seen.encodings)
    if not modules:
        raise NotCovered("no convolution over an image's three channels is called, so what is encoded is not known")
    for calls in modules.values():
        assert_encoded_once(calls, seen.frames)


@training_check(short_clips, observation=on_one_rank(keep_clip), cost=12, draws="training on two frames")
def test_nothing_kept(case: Training, observe: Observe, target: Target) -> None:
    """Nothing is kept from call to call: outputs die with their last user, memory stays level, answers do not change.

    Features or outputs held by the model fill the memory of the GPU, step by step, or answer the next clip with the
    last one's.
    """
    seen: Kept = observe(case)
    if seen.alive:
        raise Violation(
            f"{len(seen.alive)} tensors of a call's outputs are still in memory after the step, first {seen.alive[0]}",
            tensor=seen.alive[0],
            expected="outputs freed once nobody holds them",
            got=f"{len(seen.alive)} alive",
            details="\n".join(seen.alive[:40]),
        )
    if seen.bytes_after[1] > seen.bytes_after[0]:
        raise Violation(
            "memory grows from step to step",
            expected=f"{seen.bytes_after[0]} bytes in tensors, as after the second step",
            got=f"{seen.bytes_after[1]} bytes after the fourth",
        )
    exact: dict[str, float] = {}
    message = "frame {frame}'s outputs are others after another clip was trained on without an optimizer's step"
    assert_same_outputs(message, seen.before, seen.after, exact)


@training_check(short_clips, observation=on_one_rank(measure_memory), cost=12, draws="training on two frames")
def test_peak_memory(case: Training, observe: Observe, target: Target) -> None:
    """What a forward keeps for the backward pass grows at most linearly with the number of frames.

    Memory bounds the clip's length on a GPU. A loop that encodes the whole clip anew for each frame, or lets frames
    attend to all others, grows with the square.
    """
    taken: dict[int, int] = observe(case)
    first, second, third = taken
    early = (taken[second] - taken[first]) / (second - first)
    late = (taken[third] - taken[second]) / (third - second)
    if late > 1.1 * max(early, 0.0):
        rows: list[list[object]] = [["frames", "bytes kept", "a frame more"]]
        lengths = list(taken)
        for before, frames in zip([0, *lengths], lengths, strict=False):
            more = "" if not before else f"{(taken[frames] - taken[before]) / (frames - before):.0f}"
            rows.append([frames, taken[frames], more])
        raise Violation(
            "memory grows faster than the number of frames",
            expected=f"at most {early:.0f} bytes for each further frame, as from {first} frame to {second}",
            got=f"{late:.0f} bytes for each further frame from {second} to {third}",
            table=rows,
        )


@training_check(any_clips, observation=trained, kind=HAZARD)
def test_quiet(case: Training, observe: Observe, target: Target) -> None:
    """The forward writes nothing to standard output.

    A line at every call of every rank slows training down and hides what matters in its log.
    """
    seen: Trained = observe(case)
    if seen.printed:
        raise Violation(
            f"the forward prints: {seen.printed.splitlines()[0][:120]}",
            expected="nothing on standard output",
            got=f"{len(seen.printed.splitlines())} lines",
            details=seen.printed[:2000],
        )
