"""sam3's own Trainer with the target's configuration: real files, real ranks, the whole way to a trained model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import strategies as st

from fixtures.synthetic.videos import MAX_VIDEOS
from fixtures.trainer import Step, Trained
from verify.clips.forward import place_of_forward
from verify.configuration.configured import place_of_configuration
from verify.engine.check import PROCESSES, check
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.trainer.asked import clipping_norm, has_schedules, shuffles
from verify.trainer.case import Run, run_from_json, why_no_trainer
from verify.trainer.observation import LEARNED, Agreement, Both, on_ranks, train_alone, train_once, train_twice
from verify.trainer.pictures import learning_pictures, resumed_pictures, shows

WorldSizes = st.SearchStrategy[int]
Cases = st.SearchStrategy[Run]

#: How far apart the losses of two runs may lie that should be one, in parts of the loss: sums in another order.
SAME = 1e-3
#: Which part of a model's weights has to be trained for it to be known that it learns.
MOST = 0.5
trainer_check = partial(
    check,
    "trainer",
    from_json=run_from_json,
    why_not_provided=why_no_trainer,
    launchers=(PROCESSES,),
    on_cpu=True,
    cost=1000,
    every_size=False,
    rests_on=("test_loader_makes_clips", "test_step_runs"),
    place_of_code=lambda target: place_of_configuration(target) or place_of_forward(target),
)


def _short(target: Target, world_sizes: WorldSizes) -> Cases:
    # An epoch of two steps, as far as there are videos for it.
    sizes = world_sizes.filter(lambda size: 2 * size <= MAX_VIDEOS)
    return sizes.map(lambda size: Run(world_size=size, videos=2 * size, batch=size))


def _as_configured(target: Target, world_sizes: WorldSizes) -> Cases:
    return _short(target, world_sizes).map(partial(replace, amp=True))


def _two_epochs(target: Target, world_sizes: WorldSizes) -> Cases:
    # Of eight clips, one order in 40,320 comes twice by chance.
    return _as_configured(target, world_sizes).map(lambda case: replace(case, videos=max(8, case.videos), frames=3))


def _overfit(target: Target, world_sizes: WorldSizes) -> Cases:
    sizes = world_sizes.filter(lambda size: size <= MAX_VIDEOS)
    return sizes.map(
        lambda size: Run(size, videos=max(4, size), frames=8, hold_out=True, epochs=64, batch=max(4, size))
    )


def _broken_off(target: Target, world_sizes: WorldSizes) -> Cases:
    sizes = world_sizes.filter(lambda size: 2 * size <= MAX_VIDEOS)
    return sizes.map(lambda size: Run(size, videos=2 * size, frames=2, epochs=2, batch=size, decays=True, amp=True))


def _decaying(target: Target, world_sizes: WorldSizes) -> Cases:
    return _as_configured(target, world_sizes).map(partial(replace, frames=2, decays=True))


def _steps(steps: Sequence[Step], others: Sequence[Step]) -> list[list[object]]:
    rows: list[list[object]] = [["step", "expected", "got"]]
    for number, (got, expected) in enumerate(zip(steps, others, strict=False)):
        rows.append([number, f"{expected.loss:.6g}", f"{got.loss:.6g}"])
    return rows


def _assert_finite(rank: int, run: Trained) -> None:
    for number, step in enumerate(run.steps):
        if not math.isfinite(step.loss):
            raise Violation(f"the loss of step {number} is {step.loss}", rank=rank, call=number, tensor="core_loss")


@trainer_check(_two_epochs, on_ranks(train_once))
def test_trainer_runs(case: Run, observe: Callable[[Run], list[Trained]], target: Target) -> None:
    """sam3's Trainer runs with the configuration, losses are numbers, and each epoch uses every frame of every clip.

    It trains in the precision that the configuration sets: with AMP, a loss may overflow that does not without. On
    clips as long as their videos, an epoch has to show each frame once, in order, and no clip to two ranks, nor
    more often than the dataset holds it. Where the configuration asks for shuffling, each epoch has an order of its
    own: a sampler that is not told the epoch gives every one the same batches.
    """
    seen = observe(case)
    counts = [len(run.steps) for run in seen]
    if len(set(counts)) > 1 or counts[0] % case.epochs or not counts[0]:
        raise Violation(
            f"the ranks make {', '.join(map(str, counts))} steps in {case.epochs} epochs",
            expected="as many on each rank and in each epoch",
            got=counts,
        )
    per_epoch = counts[0] // case.epochs
    for rank, run in enumerate(seen):
        _assert_finite(rank, run)
    epochs = [[run.steps[at : at + per_epoch] for run in seen] for at in range(0, counts[0], per_epoch)]
    for epoch, steps in enumerate(epochs):
        _assert_epoch(case, epoch, steps, seen[0].datapoints)
    if shuffles(target):
        _assert_shuffled(epochs)


def _assert_shuffled(epochs: Sequence[Sequence[Sequence[Step]]]) -> None:
    """Clips come in another order in one of the epochs; ``epochs`` by epoch and rank."""
    orders = [[clip for of_rank in steps for step in of_rank for clip in step.clips] for steps in epochs]
    if len(orders) > 1 and all(order == orders[0] for order in orders):
        videos = [sorted({frame[0] for frame in clip.frames if frame is not None})[0] for clip in orders[0]]
        raise Violation(
            f"{len(orders)} epochs have their clips in the same order, though the configuration says shuffle: true",
            call=len(epochs[0][0]),
            expected="another order in each epoch",
            got=f"videos {', '.join(map(str, videos))} in each, rank by rank",
        )


def _times(datapoints: int | None, clips: int) -> int:
    """How often a dataset of so many datapoints holds each of so many clips; once where it does not come out even."""
    return 1 if not datapoints or not clips or datapoints % clips else datapoints // clips


def _assert_epoch(case: Run, epoch: int, steps: Sequence[Sequence[Step]], datapoints: int | None) -> None:
    """The clips of an epoch are whole videos, each as often as the dataset holds it; ``steps`` by rank."""
    times = _times(datapoints, len({clip for of_rank in steps for step in of_rank for clip in step.clips}))
    owners: dict[tuple[int, frozenset[str]], list[int]] = {}
    for rank, clip in ((rank, clip) for rank, of_rank in enumerate(steps) for step in of_rank for clip in step.clips):
        shown = [frame for frame in clip.frames if frame is not None]
        videos = {video for video, _ in shown}
        if [frame for _, frame in shown] != list(range(case.frames)) or len(videos) != 1:
            raise Violation(
                f"epoch {epoch} trains rank {rank} on a clip that is not its video's frames in order",
                rank=rank,
                tensor="img_batch",
                expected=f"frames 0 to {case.frames - 1} of one video",
                got=", ".join(f"video {frame[0]} frame {frame[1]}" if frame else "?" for frame in clip.frames),
            )
        (video,) = videos
        trained = owners.setdefault((video, clip.texts), [])
        trained.append(rank)
        if len(trained) > times:
            often = "twice" if times == 1 else f"{times + 1} times"
            raise Violation(
                f"epoch {epoch} trains ranks {trained[0]} and {rank} on the same clip, of video {video}"
                if trained[0] != rank
                else f"epoch {epoch} trains rank {rank} {often} on the same clip, of video {video}",
                rank=rank,
                expected="every clip once" if times == 1 else f"every clip {times} times, as the dataset holds it",
            )
    if missing := sorted(set(range(case.videos)) - {video for video, _ in owners}):
        raise Violation(f"epoch {epoch} leaves out video {missing[0]}", expected=f"all of {case.videos} videos")


@trainer_check(_decaying, on_ranks(train_once))
def test_trainer_steps(case: Run, observe: Callable[[Run], list[Trained]], target: Target) -> None:
    """Each step trains in training mode, by its own loss's gradient alone, and moves every parameter that has one.

    In evaluation mode, dropout is off and sam3's model takes another way; only what is frozen may be left in it. Where
    the gradients of the step before are left, each step is one by all losses so far, and where they are dropped, the
    step was for nothing. A gradient that is lost on the way to the optimizer trains nothing:
    what is frozen on purpose has ``requires_grad`` off, or no learning rate. Where the configuration says so, the
    learning rate falls, and the norm of the gradients stays below the one that they are clipped to.
    """
    limit = clipping_norm(target)
    for rank, run in enumerate(observe(case)):
        for number, step in enumerate(run.steps):
            where: dict[str, Any] = {"rank": rank, "call": number}
            if not step.training:
                raise Violation(f"step {number} trains the model in evaluation mode", got="training = False", **where)
            if step.in_evaluation:
                raise Violation(
                    f"step {number} trains {_some(step.in_evaluation, 'modules')} in evaluation mode, though the model "
                    "puts all that is trained into training mode",
                    got=f"{step.in_evaluation[0]}.training = False",
                    **where,
                )
            if step.lost:
                raise Violation(
                    f"nothing comes of step {number}: its gradient is gone before the next one, without an update",
                    expected="a step of the optimizer, or a gradient that is kept for it",
                    got="gradients that are None or zero, and no step",
                    **where,
                )
            if step.stale:
                raise Violation(
                    f"step {number} adds its gradient to what is left of the step before, in {_some(step.stale)}",
                    tensor=f"{step.stale[0]}.grad",
                    expected="none, or zeros, before the backward pass",
                    **where,
                )
            if limit is not None and step.norm is not None and not step.norm <= limit * (1 + SAME):
                raise Violation(
                    f"step {number} is made with gradients of norm {step.norm:.4g}, though they are to be clipped",
                    expected=f"at most {limit:g}, as gradient_clip says",
                    got=f"{step.norm:.6g}",
                    **where,
                )
        if run.unused:
            raise Violation(
                f"nothing comes of the gradient of {_some(run.unused)}",
                rank=rank,
                tensor=run.unused[0],
                expected="an update, in one of the steps",
                got="the same values after all of them",
            )
        rates = [step.learning_rate for step in run.steps if step.learning_rate is not None]
        if has_schedules(target) and len(rates) > 1 and len(set(rates)) == 1:
            raise Violation(
                f"the learning rate does not follow its schedule: in step {len(rates) - 1} it is {rates[-1]:g}",
                rank=rank,
                call=len(rates) - 1,
                expected=f"another than {rates[0]:g}, that of the first step: the schedule halves it in the course of "
                "training",
                got=", ".join(f"{rate:g}" for rate in rates),
            )


def _some(names: Sequence[str], what: str = "parameters") -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} {what} more"


@trainer_check(_overfit, on_ranks(train_once), pictures=learning_pictures(LEARNED), shows=shows)
def test_trainer_learns(case: Run, observe: Callable[[Run], list[Trained]], target: Target) -> None:
    """Trained on four short clips, the model finds their boxes: also in frames between those that it was trained on.

    The L1 of boxes has to fall to a half; when it has, it is enough. A model that does not manage four clips will not
    manage a dataset: what arrives is not what is to be learnt, or the gradients are not those of the loss. Where most
    weights are frozen, how far the others get is not known: weights are random here, and frozen ones were meant to be
    pretrained.
    """
    seen = observe(case)
    for rank, run in enumerate(seen):
        _assert_finite(rank, run)
    if not all(run.steps for run in seen):
        raise Violation("the Trainer makes no step", expected="steps on every rank")
    epochs = seen[0].steps[-1].epoch + 1
    per_epoch = max(1, len(seen[0].steps) // epochs)
    if any(step.box_l1 is None for run in seen for step in run.steps):
        raise NotCovered("the loss does not tell its part for boxes, loss_bbox")
    boxes = [[step.box_l1 or 0.0 for step in run.steps] for run in seen]
    first = sum(sum(steps[:per_epoch]) for steps in boxes) / len(boxes) / per_epoch
    last = sum(sum(steps[-per_epoch:]) for steps in boxes) / len(boxes) / per_epoch
    held_out = [run.held_out for run in seen if run.held_out is not None]
    before, after = held_out[0]
    for what, start, end in (("trained on", first, last), ("held out", before, after)):
        if not end * LEARNED <= start:
            if (trainable := min(run.trainable for run in seen)) < MOST:
                raise NotCovered(
                    f"{trainable:.0%} of the model's weights are trained: with them the boxes' L1 on the frames {what} "
                    f"went from {start:.3g} to {end:.3g} in {epochs} epochs"
                )
            raise Violation(
                f"after {epochs} epochs the boxes' L1 on the frames {what} is {end:.3g}, from {start:.3g}",
                tensor="loss_bbox",
                expected=f"at most {start / LEARNED:.3g}",
                got=f"{end:.3g}",
                table=_course(boxes[0], per_epoch),
            )


def _course(values: Sequence[float], per_epoch: int) -> list[list[object]]:
    rows: list[list[object]] = [["epoch", "boxes' L1"]]
    epochs = len(values) // per_epoch
    for epoch in range(0, epochs, max(1, epochs // 10)):
        rows.append([epoch, f"{sum(values[epoch * per_epoch : (epoch + 1) * per_epoch]) / per_epoch:.3g}"])
    return rows


@trainer_check(_broken_off, on_ranks(train_twice), pictures=resumed_pictures(SAME), shows=shows)
def test_trainer_resumes(case: Run, observe: Callable[[Run], list[Both]], target: Target) -> None:
    """Stopped in the middle and started again, training has the losses of a run that was never stopped.

    Otherwise something was forgotten: weights, the optimizer's moments, the epoch that orders the clips and sets the
    learning rate.
    """
    for rank, runs in enumerate(observe(case)):
        broken, unbroken = runs.one.steps, runs.other.steps
        table = _steps(broken, unbroken)
        if len(broken) != len(unbroken):
            raise Violation(
                "stopped and started again, training makes another number of steps",
                rank=rank,
                expected=len(unbroken),
                got=len(broken),
                table=table,
            )
        for number, (got, expected) in enumerate(zip(broken, unbroken, strict=True)):
            if not abs(got.loss - expected.loss) <= SAME * abs(expected.loss):
                where = "after" if number >= len(unbroken) // 2 else "before"
                raise Violation(
                    f"step {number}, {where} the stop, has another loss than in a run that was not stopped",
                    rank=rank,
                    call=number,
                    tensor="core_loss",
                    expected=f"{expected.loss:.6g}",
                    got=f"{got.loss:.6g}",
                    table=table,
                )


def _in_one_step(target: Target, world_sizes: WorldSizes) -> Cases:
    # All clips in the first step, so that it does not hang on their order: a single rank may draw it otherwise.
    sizes = world_sizes.filter(lambda size: size <= MAX_VIDEOS)
    return sizes.map(lambda size: Run(world_size=size, videos=size, batch=size))


def _assert_same_clips(case: Run, seen: list[Agreement]) -> None:
    together = Counter(clip for runs in seen for clip in runs.together[0].clips)
    alone = Counter(seen[0].alone[0].clips)
    if together != alone and max(together.values(), default=0) <= _times(seen[0].datapoints, case.videos):
        raise NotCovered("a single rank is given other clips in its first step than all ranks together")


@trainer_check(_in_one_step, on_ranks(train_alone))
def test_ranks_agree(case: Run, observe: Callable[[Run], list[Agreement]], target: Target) -> None:
    """Several ranks take the step that a single one takes with all their clips: the same boxes' L1, the same gradient.

    Compared is the direction of the gradient: sam3's loss is scaled by the number of clips on a rank. One rank's
    gradient alone means that the ranks train different models from here on. In later steps all ranks have one
    gradient. Where a step makes several passes over its clips, only the ranks' gradients are compared with each other:
    between the passes a rank may move its weights by its own.
    """
    seen = observe(case)
    _assert_same_clips(case, seen)
    several = any(step.passes > 1 for runs in seen for step in runs.together)
    if not several:
        _assert_as_alone(case, seen)
    _assert_one_gradient(seen)
    if several:
        raise NotCovered(
            "a step makes several passes over its clips: what a single rank would do with all of them is not known"
        )


def _assert_as_alone(case: Run, seen: list[Agreement]) -> None:
    """In the first step all ranks together have the boxes' L1 and the gradient that one has with all clips."""
    alone = seen[0].alone
    parts = [runs.together[0].box_l1 or 0.0 for runs in seen]
    mean, right = sum(parts) / len(parts), alone[0].box_l1
    if right is not None and not abs(mean - right) <= SAME * right:
        raise Violation(
            "step 0: the ranks' boxes' L1 is not what one rank has with all their clips",
            call=0,
            tensor="loss_bbox",
            expected=f"{right:.6g}",
            got=f"{mean:.6g}, the mean of {', '.join(f'{part:.6g}' for part in parts)}",
        )
    for rank, runs in enumerate(seen):
        if runs.apart is None:
            raise Violation("step 0: other parameters have a gradient than on one rank", rank=rank, call=0)
        if not runs.apart <= 10 * SAME:
            raise Violation(
                f"step 0: the gradient of {case.world_size} ranks points elsewhere than that of one with all clips",
                rank=rank,
                call=0,
                expected=f"at most {10 * SAME:g} apart, as vectors of norm 1",
                got=f"{runs.apart:.3g}",
            )


def _assert_one_gradient(seen: list[Agreement]) -> None:
    """In each step the optimizers of all ranks are given the same."""
    for call, steps in enumerate(zip(*(runs.together for runs in seen), strict=False)):
        totals = [step.total for step in steps if step.total is not None]
        norms = [step.norm for step in steps if step.norm is not None]
        if totals and not max(totals) - min(totals) <= 10 * SAME * max(norms):
            raise Violation(
                f"step {call}: the ranks' optimizers are given different gradients, so each trains a model of its own",
                call=call,
                expected="the mean of all ranks' gradients, on each",
                got=f"gradients whose entries sum up to {', '.join(f'{total:.6g}' for total in totals)}",
            )
