"""What a forward leaves behind: in the model, in torch, and in what the model computes after further steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from verify.clips.case import Training
from verify.clips.observe import on_one_rank
from verify.engine.check import HAZARD
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.training.agreement import assert_same_outputs, parts
from verify.training.case import short_clips
from verify.training.group import Observe, training_check
from verify.training.lasting import BetweenSteps, Left, evaluate_between_steps, leave_model

left = on_one_rank(leave_model)


def _in_words(training: bool) -> str:
    return "training" if training else "evaluation"


def _observed(seen: Mapping[str, Left | str]) -> dict[str, Left]:
    return {mode: found for mode, found in seen.items() if isinstance(found, Left)}


def _require_both(seen: Mapping[str, Left | str]) -> None:
    for mode, found in seen.items():
        if isinstance(found, str):
            raise NotCovered(f"what a forward in {mode} leaves behind cannot be told: {found}")


def _assert_same_trained(mode: str, trained: Mapping[str, bool]) -> None:
    if trained:
        name, now = next(iter(trained.items()))
        names = [other for other, is_trained in trained.items() if is_trained == now]
        raise Violation(
            f"a forward in {mode} turns requires_grad {'on' if now else 'off'} for {len(names)} parameters of "
            f"{parts(names)}, and leaves it so",
            tensor=name,
            expected=f"requires_grad {not now}, as before",
            got=f"requires_grad {now}",
            details="\n".join(names[:40]),
        )


@training_check(short_clips, observation=left, draws="training on two frames")
def test_forward_leaves_the_model(case: Training, observe: Observe, target: Target) -> None:
    """A forward changes neither which parameters are trained, nor the model's mode, nor torch's, and seeds nothing.

    In training and in evaluation. Parameters that it freezes are no longer trained, without a word, while the rest is.
    A generator that is set anew, and not only drawn from, makes dropout drop the same in every step.
    """
    seen: Mapping[str, Left | str] = observe(case)
    for mode, found in _observed(seen).items():
        _assert_same_trained(mode, found.trained)
        if "" in found.modes:
            raise Violation(
                f"a forward in {mode} leaves the model in {_in_words(found.modes[''])} mode",
                expected=f"{mode} mode, as before",
                got=f"{_in_words(found.modes[''])} mode",
            )
        if found.torch:
            raise Violation(
                f"a forward in {mode} leaves torch another than it was: {'; '.join(found.torch)}",
                expected="torch's state as before",
                got="; ".join(found.torch),
            )
        first, second = found.next_numbers
        if first == second:
            raise Violation(
                f"a forward in {mode} sets the generator of random numbers anew: the same numbers come after it, "
                "whatever was drawn before",
                expected="other numbers after it, where one more was drawn before",
                got=f"{', '.join(f'{number:.4f}' for number in first)} both times",
            )
    _require_both(seen)


@training_check(short_clips, observation=left, draws="training on two frames", kind=HAZARD)
def test_modules_keep_their_mode(case: Training, observe: Observe, target: Target) -> None:
    """A forward leaves every module in the mode that it was in.

    A part that is put into evaluation mode by the way drops nothing from then on: on purpose where it is frozen, and
    otherwise it trains without the dropout and drop path that it was built with.
    """
    seen: Mapping[str, Left | str] = observe(case)
    for mode, found in _observed(seen).items():
        if found.modes:
            name, training = next(iter(found.modes.items()))
            names = [other or "the model" for other, now in found.modes.items() if now == training]
            raise Violation(
                f"a forward in {mode} leaves {len(names)} modules in {_in_words(training)} mode, first "
                f"{name or 'the model'}",
                expected=f"{_in_words(not training)} mode, as before",
                got=f"{_in_words(training)} mode",
                details="\n".join(names[:40]),
            )
    _require_both(seen)


def _assert_same_gradients(gradients: Collection[tuple[str, str, str]]) -> None:
    lost = [found for found in gradients if found[2] == "none"]
    for name, right, got in lost or gradients:
        names = [found[0] for found in lost or gradients]
        raise Violation(
            f"trained on after an evaluation, {len(names)} parameters of {parts(names)} get "
            + ("no gradient, and do" if lost else "other gradients than")
            + " in a fresh copy under the same weights",
            tensor=name,
            expected=right,
            got=got,
            details="\n".join(names[:40]),
        )


@training_check(
    short_clips,
    observation=on_one_rank(evaluate_between_steps),
    cost=12,
    draws="training on two frames",
    rests_on=("test_step_runs", "test_same_seed_same_result"),
)
def test_evaluation_between_steps(case: Training, observe: Observe, target: Target) -> None:
    """A model that is trained and evaluated in turn computes what a fresh copy of it does under the same weights.

    After two rounds of a training step, weights moved and an evaluation, the last evaluation gives the same outputs,
    and a further step the same outputs and gradients. What is kept by value and not computed anew (features of texts,
    say) makes a validation measure a model that is no more; what is kept without gradient is not trained. Frozen
    weights are not moved.
    """
    seen: BetweenSteps = observe(case)
    fresh = "for frame {frame} than a fresh copy under the same weights: something is kept from before"
    exact: dict[str, float] = {}
    message = f"evaluated a second time, after a training step, the model gives other outputs {fresh}"
    assert_same_outputs(message, seen.evaluated_afresh, seen.evaluated, exact)
    message = f"trained on after an evaluation, the model gives other outputs {fresh}"
    assert_same_outputs(message, seen.trained_afresh, seen.trained, exact)
    _assert_same_gradients(seen.gradients)
