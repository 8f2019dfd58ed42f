"""Training on clips: a target's forward over several frames, against sam3's one-frame forward on each frame alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from fixtures.ranks import Ranks
from verify.check import HAZARD, THREADS, check
from verify.clip_agreement import (
    Clip,
    assert_encoded_once,
    assert_gradients,
    assert_in_order,
    assert_same_loss,
    assert_same_outputs,
    encodings_by_module,
    numbers,
    stage_table,
)
from verify.clip_cost import Kept, Precision, keep_clip, measure_memory, watch_precision
from verify.clip_forward import lacks_clip_forward
from verify.clip_observation import (
    Detected,
    Evaluated,
    GradientMap,
    Prompted,
    Reordered,
    Trained,
    detect_clip,
    evaluate_clip,
    map_gradients,
    on_one_rank,
    prompt_clip,
    reorder_clip,
    train_clip,
)
from verify.clip_settings import (
    Again,
    Answer,
    Checkpointed,
    Interactive,
    Unlabelled,
    checkpoint_clip,
    evaluate_interactively,
    scale_losses,
    train_again,
    withhold_targets,
)
from verify.finding import Violation
from verify.target import Target
from verify.tolerance import distance, rounding
from verify.training import MAX_FRAMES, Training, training_from_json, trainings

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[Training]
Observe = Callable[[Training], Any]

training_check = partial(
    check,
    "training",
    from_json=training_from_json,
    lacks=lacks_clip_forward,
    carriers=(THREADS,),
    cost=8,
    draws="training",
)
trained = on_one_rank(train_clip)
mapped = on_one_rank(map_gradients)
retrained = on_one_rank(train_again)


def _twice(ranks: Ranks, target: Target, case: Training) -> tuple[Trained, Again]:
    return trained(ranks, target, case), retrained(ranks, target, case)


def _any(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings()


def _several_frames(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.sampled_from((2, 3, 4, 5)))


def _long(target: Target, world_sizes: WorldSizes) -> Cases:
    # The simplest case is the longest clip: one that a loop cuts short must not depend on luck to be drawn.
    longest_first = st.integers(0, MAX_FRAMES - 1).map(lambda less: MAX_FRAMES - less)
    return trainings(frames=longest_first, clips=st.just(1), prompts=st.just(1))


def _two_clips(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.sampled_from((2, 3, 4)), clips=st.just(2))


def _with_boxes(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.sampled_from((2, 3)), prompts=st.integers(2, 3), boxes=st.integers(1, 2))


def _short(target: Target, world_sizes: WorldSizes) -> Cases:
    return trainings(frames=st.just(2), prompts=st.just(1))


@training_check(_any, observation=trained)
def test_one_stage_per_frame(case: Training, observe: Observe, target: Target) -> None:
    """A clip of T frames gives T stages in frame order, in the structure that sam3's loss and trainer take.

    The loss pairs stage t with the targets of frame t. A stage too few, one twice or two exchanged trains frames
    on boxes that lie where the objects are in other frames.
    """
    seen: Trained = observe(case)
    assert_in_order(case.frames, seen.misfit, seen.outputs, seen.expected, seen.tolerances)


@training_check(_any, observation=trained)
def test_training_outputs(case: Training, observe: Observe, target: Target) -> None:
    """In training every output of stage t is what sam3's one-frame forward gives for frame t alone.

    Auxiliary and one-to-many outputs, presence, masks and matched indices, too: each of them is trained on. An image,
    a prompt or targets of another frame, or features changed on the way, show here.
    """
    seen: Trained = observe(case)
    assert_same_outputs(
        "frame {frame}'s outputs are not those of sam3's one-frame forward on that frame alone",
        seen.expected,
        seen.outputs,
        seen.tolerances,
        masks_optional=not case.masks,
        table=stage_table(seen.outputs, seen.expected, seen.tolerances),
    )


@training_check(_any, observation=on_one_rank(evaluate_clip))
def test_evaluation_outputs(case: Training, observe: Observe, target: Target) -> None:
    """In evaluation every output of stage t is what sam3's one-frame forward gives for frame t alone.

    Validation during training measures this forward: where it differs from detection in single frames, the best
    checkpoint is chosen by something else than what is used later.
    """
    seen: Detected = observe(case).detected
    assert_in_order(case.frames, seen.misfit, seen.outputs, seen.expected, seen.tolerances)
    assert_same_outputs(
        "in evaluation frame {frame}'s outputs are not those of sam3's one-frame forward on that frame alone",
        seen.expected,
        seen.outputs,
        seen.tolerances,
        table=stage_table(seen.outputs, seen.expected, seen.tolerances),
    )


@training_check(_any, observation=trained)
def test_clip_loss(case: Training, observe: Observe, target: Target) -> None:
    """The loss of a clip is what the target's own loss gives for the frames' one-frame outputs.

    Summed or averaged, as that loss does it. Another value means that frames are missing, counted twice, or matched
    to targets of others.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    message = "the loss of the clip is not that of its frames one by one"
    assert_same_loss(message, seen.expected_loss, seen.loss, seen.loss_tolerance, case.frames)


@training_check(_any, observation=trained)
def test_clip_gradients(case: Training, observe: Observe, target: Target) -> None:
    """Every parameter's gradient is the sum of what the frames one by one give it, weighted as the loss weights them.

    Outputs can be right and training wrong: features detached, or gradient from some of the frames alone, leave
    loss and outputs as they are and teach something else.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    assert_gradients(seen)


@training_check(_any, observation=trained)
def test_same_parameters_trained(case: Training, observe: Observe, target: Target) -> None:
    """The parameters that get gradient are those that get it in sam3's one-frame model.

    A part cut off from the loss (a detached text encoder, say) stays as it was while the rest trains around it. One
    that is trained and should not be drifts.
    """
    seen: Trained = observe(case)
    seen.require_gradients()
    lost = [item.name for item in seen.gradients if item.expected and not item.got]
    extra = [item.name for item in seen.gradients if item.got and not item.expected]
    if lost or extra:
        names = lost or extra
        parts = sorted({".".join(name.split(".")[:2]) for name in names})
        raise Violation(
            f"{len(lost)} parameters of {', '.join(parts)} get no gradient, and do in sam3's one-frame model"
            if lost
            else f"{len(extra)} parameters of {', '.join(parts)} get gradient, and do not in sam3's one-frame model",
            tensor=names[0],
            expected="no gradient" if not lost else "gradient",
            got="gradient" if not lost else "no gradient, or nothing but zeros",
            details="\n".join(names[:40]),
        )


def _map_table(seen: GradientMap) -> list[list[object]]:
    rows: list[list[object]] = [["gradient of", *(f"in frame {frame}" for frame in range(seen.case.frames))]]
    for stage, row in enumerate(seen.frames):
        rows.append([f"stage {stage}", *(f"{value:.3g}" for value in row)])
    return rows


@training_check(_any, observation=mapped)
def test_every_frame_contributes(case: Training, observe: Observe, target: Target) -> None:
    """Every stage's outputs carry gradient back to the image of their own frame.

    A frame whose features are detached, or whose outputs are computed without gradient, costs its time and teaches
    the image backbone nothing.
    """
    seen: GradientMap = observe(case)
    for frame in range(case.frames):
        value = seen.frames[frame][frame] if frame < len(seen.frames) else 0.0
        if not value > 0:
            raise Violation(
                f"no gradient of stage {frame}'s outputs reaches the image of frame {frame}",
                frame=frame,
                expected="a gradient in the frame's own image",
                got="none" if value == 0 else value,
                table=_map_table(seen),
            )


@training_check(_several_frames, observation=mapped, draws="training of several frames")
def test_no_frame_leaks(case: Training, observe: Observe, target: Target) -> None:
    """No stage's outputs carry gradient to the image of another frame.

    The detector sees one frame at a time when it is used; trained on features that hold other frames too, it learns
    from what it will not have.
    """
    seen: GradientMap = observe(case)
    for stage, row in enumerate(seen.frames):
        others = {frame: value for frame, value in enumerate(row) if frame != stage and value != 0.0}
        if others:
            frame, value = max(others.items(), key=lambda item: item[1])
            raise Violation(
                f"stage {stage}'s outputs depend on the image of frame {numbers(others)}",
                frame=stage,
                expected=f"gradient in the image of frame {stage} alone",
                got=f"a gradient of norm {value:.3g} in the image of frame {frame}",
                table=_map_table(seen),
            )


@training_check(_several_frames, observation=on_one_rank(reorder_clip), draws="training of several frames")
def test_permuted_frames(case: Training, observe: Observe, target: Target) -> None:
    """With the stages of a clip in another order, the same outputs come in that order.

    Each frame is detected by itself, so what comes before it must not matter. The stages then no longer have the
    numbers of their images, as they do not in a batch of several clips.
    """
    seen: Reordered = observe(case)
    expected = tuple(seen.first[frame] for frame in seen.order if frame < len(seen.first))
    assert_same_outputs(
        f"with the frames in the order {', '.join(map(str, seen.order))}, stage {{frame}} is not what that frame gives "
        "in its own place",
        expected,
        seen.second,
        seen.tolerances,
        table=stage_table(seen.second, seen.first, seen.tolerances),
    )


def _assert_detected(case: Training, seen: Detected, message: str) -> None:
    assert_in_order(case.frames, seen.misfit, seen.outputs, seen.expected, seen.tolerances)
    assert_same_outputs(
        message,
        seen.expected,
        seen.outputs,
        seen.tolerances,
        masks_optional=not case.masks,
        table=stage_table(seen.outputs, seen.expected, seen.tolerances),
    )


@training_check(_long, observation=on_one_rank(detect_clip), draws="training on long clips")
def test_any_clip_length(case: Training, observe: Observe, target: Target) -> None:
    """Clips of 1 to 12 frames are detected whole.

    Loaders draw clips of several lengths; a loop that ends early leaves the rest of a clip untrained without a word.
    """
    _assert_detected(
        case, observe(case), f"in a clip of {case.frames} frames, frame {{frame}}'s outputs are not its own"
    )


@training_check(_two_clips, observation=on_one_rank(detect_clip), draws="training on two clips")
def test_two_clips_in_a_batch(case: Training, observe: Observe, target: Target) -> None:
    """In a batch of two clips each query gets the image of its own clip's frame.

    All images of the first clip come before those of the second, so a frame's number is the number of its image in
    the first clip alone.
    """
    message = "in a batch of two clips frame {frame}'s outputs are not those of the two clips' images of that frame"
    _assert_detected(case, observe(case), message)


@training_check(_any, observation=trained)
def test_encoded_once(case: Training, observe: Observe, target: Target) -> bool:
    """Each frame goes through the image backbone exactly once in a training step.

    With and without a segmentation head. The backbone is most of the model: frames encoded twice cost nearly twice
    the time and memory, and the first pass of them is thrown away.
    """
    seen: Trained = observe(case)
    modules = encodings_by_module(seen.encodings)
    for calls in modules.values():
        assert_encoded_once(calls, seen.frames)
    return bool(modules)


@training_check(_any, observation=trained)
def test_batch_unchanged(case: Training, observe: Observe, target: Target) -> None:
    """The forward leaves the batch as it was: images, stages, prompts, targets.

    The trainer reads targets and metadata after the forward, and a retried or accumulated step reads all of it.
    """
    seen: Trained = observe(case)
    if seen.changed:
        raise Violation(
            f"the forward changed the batch in {len(seen.changed)} places: {seen.changed[0]}",
            expected="the batch as it was before",
            got=seen.changed[0],
            details="\n".join(seen.changed),
        )


@training_check(_short, observation=on_one_rank(keep_clip), cost=12, draws="training on two frames")
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


@training_check(_any, observation=_twice)
def test_same_seed_same_result(case: Training, observe: Observe, target: Target) -> None:
    """Under the same seed a training step gives the same outputs, loss and gradients, bit for bit.

    Otherwise a run cannot be repeated, and two runs cannot be compared.
    """
    seen: Trained
    again: Again
    seen, again = observe(case)
    seen.require_gradients()
    exact: dict[str, float] = {}
    message = "run again under the same seed, frame {frame} gives other outputs"
    assert_same_outputs(message, seen.outputs, again.outputs, exact)
    assert seen.digests is not None
    other = [name for name, digest in seen.digests.items() if again.digests.get(name) != digest]
    if other or seen.loss != again.loss:
        raise Violation(
            "run again under the same seed, a training step gives other gradients",
            tensor=other[0] if other else "loss",
            expected=f"loss {seen.loss!r}",
            got=f"loss {again.loss!r}, gradients of {len(other)} parameters differ",
        )


def _moved(before: Clip, after: Clip, tolerances: Any) -> set[tuple[int, int]]:
    """The stages and queries whose logits or boxes differ."""
    found = set()
    for frame, (steps, others) in enumerate(zip(before, after, strict=True)):
        for name in ("pred_logits", "pred_boxes"):
            for query, (values, other) in enumerate(zip(steps[-1][name], others[-1][name], strict=True)):
                if distance(values, other) > tolerances[name]:
                    found.add((frame, query))
    return found


@training_check(_with_boxes, observation=on_one_rank(prompt_clip), draws="training with box prompts")
def test_box_prompts(case: Training, observe: Observe, target: Target) -> bool:
    """A box prompt changes the outputs of its own frame and text, and no others.

    Its place and its label both. Prompts that are dropped, or the first text's prompts for all, train a detector that
    does not listen to them.
    """
    seen: Prompted | None = observe(case)
    if seen is None:
        return False
    if len(seen.plain) != case.frames or any(len(clip) != case.frames for clip in seen.changed.values()):
        raise Violation(f"{len(seen.plain)} stages came back for a clip of {case.frames} frames")
    for what, clip in seen.changed.items():
        moved = _moved(seen.plain, clip, seen.tolerances)
        own = (seen.frame, seen.query)
        others = sorted(moved - {own})
        if own in moved and not others:
            continue
        raise Violation(
            f"another {what} in the prompt of query {seen.query} in frame {seen.frame} "
            + (
                "changes nothing in that query's outputs"
                if own not in moved
                else f"changes query {others[0][1]} of frame {others[0][0]}, too"
            ),
            frame=seen.frame,
            expected=f"other outputs for query {seen.query} of frame {seen.frame} alone",
            got="other outputs for " + (", ".join(f"query {q} of frame {f}" for f, q in sorted(moved)) or "none"),
        )
    return True


def _names(answer: Answer, frame: int) -> bool:
    """Whether an error speaks of targets and names a frame."""
    text = answer.error or ""
    return bool(re.search(r"target", text, re.IGNORECASE) and re.search(rf"(?<!\d){frame}(?!\d)", text))


@training_check(_any, observation=on_one_rank(withhold_targets))
def test_missing_targets(case: Training, observe: Observe, target: Target) -> None:
    """Training on a clip that lacks the targets of a frame ends in an error that names the frame and its targets.

    A loader that drops a frame's annotations is found at once by such an error, and not at all by one about an
    attribute of None deep inside the matcher. Targets may also be left out by saying so: in the output's loss_stages.
    """
    seen: Unlabelled = observe(case)
    for what, answer in seen.answers.items():
        left_out = answer.loss_stages is not None and seen.frame not in answer.loss_stages
        if left_out or (answer.error is not None and _names(answer, seen.frame)):
            continue
        told = f"{answer.kinds[0]}: {answer.error}" if answer.error is not None else "no error"
        raise Violation(
            f"training without the targets of frame {seen.frame} ({what}) "
            + ("says nothing" if answer.error is None else "fails with an error that does not say so"),
            frame=seen.frame,
            expected=f"an error that says that the targets of frame {seen.frame} are missing",
            got=told,
            details=answer.details,
        )


#: What Python raises by itself: that something is missing is then an accident, not an answer.
_ACCIDENTS = frozenset({"AttributeError", "TypeError", "LookupError", "NameError"})


def _explained(answer: Answer) -> bool:
    """Whether an error was raised on purpose and says what interactive evaluation lacks."""
    text = answer.error or ""
    return not _ACCIDENTS & set(answer.kinds) and bool(re.search(r"interactive|sampler", text, re.IGNORECASE))


@training_check(_short, observation=on_one_rank(evaluate_interactively), cost=12, draws="training on two frames")
def test_interactive_evaluation(case: Training, observe: Observe, target: Target) -> None:
    """Evaluation with interactive steps gives a step's outputs for each, or an error that says what is missing.

    With ``num_interactive_steps_val`` set to 1: first with the model as it is built, then with an
    ``interactive_prompt_sampler``. Steps that are silently left out make an interactive validation measure nothing.
    """
    seen: Interactive = observe(case)
    for what, answer in (("as the model is built", seen.bare), ("with a sampler of prompts", seen.sampled)):
        if answer.error is not None:
            if _explained(answer):
                continue
            raise Violation(
                f"evaluation with one interactive step, {what}, fails far from the cause: "
                f"{answer.kinds[0]}: {answer.error}",
                expected="two steps a frame, or an error that says what is missing",
                got=f"{answer.kinds[0]}: {answer.error}",
                details=answer.details,
            )
        steps = [len(stage) for stage in answer.outputs]
        if steps != [2] * case.frames:
            raise Violation(
                f"evaluation with one interactive step, {what}, leaves steps out",
                expected=f"2 steps for each of {case.frames} frames",
                got=f"{', '.join(map(str, steps)) or 'no'} steps",
            )
    if seen.sampled.error is None:
        message = "after an interactive step frame {frame}'s outputs are not those of sam3's one-frame forward"
        assert_same_outputs(message, seen.expected, seen.sampled.outputs, seen.tolerances)


@training_check(_any, observation=on_one_rank(evaluate_clip))
def test_validation_loss(case: Training, observe: Observe, target: Target) -> None:
    """In evaluation a loss can be computed from the outputs, and is that of the frames one by one.

    With a model built for training, which has a matcher. Without the matched indices the first validation ends the
    run, after an epoch of training.
    """
    seen: Evaluated = observe(case)
    if seen.failure is not None:
        cause = seen.failure
        raise Violation(
            f"in evaluation {cause.message}",
            frame=cause.frame,
            expected=f"a validation loss of {seen.expected_loss:.6g}",
            got=cause.got,
            details=cause.details,
        )
    message = "the validation loss of the clip is not that of its frames one by one"
    assert_same_loss(message, seen.expected_loss, seen.loss, seen.tolerance, case.frames)


@training_check(_short, observation=on_one_rank(watch_precision), cost=12, draws="training on two frames")
def test_training_precision(case: Training, observe: Observe, target: Target) -> None:
    """Without autocast a float32 model computes in full precision wherever sam3's one-frame forward does.

    Precision is the trainer's choice (its AMP settings). Features rounded on the way cost accuracy that no setting
    brings back.
    """
    seen: Precision = observe(case)
    extra = {place: what for place, what in seen.places.items() if place not in seen.expected}
    if extra or seen.outputs:
        place, what = next(iter(extra.items()), ("the outputs", seen.outputs[0] if seen.outputs else ""))
        raise Violation(
            f"half precision on the way of a float32 model: {what} at {place}",
            tensor=seen.outputs[0] if seen.outputs else None,
            expected="float32 throughout",
            got=what,
            details="\n".join(f"{where}: {what}" for where, what in extra.items()),
        )


@training_check(_short, observation=on_one_rank(checkpoint_clip), cost=12, draws="training on two frames")
def test_activation_checkpointing(case: Training, observe: Observe, target: Target) -> bool:
    """Activation checkpointing, on or off, changes neither outputs nor loss nor gradients.

    It computes parts of the forward again during the backward pass, from what the loop left of its state: features
    changed or dropped between frames come out as other gradients then.
    """
    seen: Checkpointed = observe(case)
    for what, step in seen.others.items():
        if isinstance(step, Violation):
            raise Violation(f"with {what}, {step.message}", frame=step.frame, got=step.got, details=step.details)
        # What is discrete has to be equal.
        allowed: dict[str, float] = {}
        for name, value in (item for steps in seen.plain for out in steps for item in out.items()):
            largest = float(value.abs().max()) if value.is_floating_point() and value.numel() else 0.0
            allowed[name] = max(allowed.get(name, 0.0), rounding(largest))
        message = f"with {what}, frame {{frame}}'s outputs are others"
        assert_same_outputs(message, seen.plain, step.outputs, allowed)
        for name, right, got in step.gradients:
            raise Violation(f"with {what}, the gradient of {name} is another", tensor=name, expected=right, got=got)
    return bool(seen.others)


@training_check(_short, observation=on_one_rank(scale_losses), cost=12, draws="training on two frames", kind=HAZARD)
def test_loss_scale(case: Training, observe: Observe, target: Target) -> None:
    """The loss of a clip does not grow with its length: frames are averaged, not summed.

    Summed, a clip of eight frames weighs eight times as much as one frame, against weight decay, gradient clipping and
    a learning rate chosen for single images; and clips of different lengths weigh differently.
    """
    losses: dict[int, float] = observe(case)
    for frames, value in losses.items():
        if abs(value - losses[1]) > 1e-3 * abs(losses[1]):
            rows: list[list[object]] = [["equal frames", "loss", "of one frame's"]]
            rows += [[n, f"{loss:.6g}", f"{loss / losses[1]:.4g}"] for n, loss in losses.items()]
            raise Violation(
                f"the loss of a clip of {frames} equal frames is {value / losses[1]:.4g} times that of one frame",
                tensor="loss",
                expected=f"{losses[1]:.6g}, whatever the clip's length",
                got=f"{value:.6g} for {frames} frames",
                table=rows,
            )


@training_check(_short, observation=on_one_rank(measure_memory), cost=12, draws="training on two frames")
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


@training_check(_any, observation=trained, kind=HAZARD)
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
