"""The target's own builder, called at toy width: what its model is, and whether it does what its arguments say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from hypothesis import strategies as st

from verify.builder.case import (
    MISFITS,
    Build,
    build_from_json,
    declares,
    freezes,
    place_of_builder,
    why_no_arguments,
    why_no_builder,
    why_no_loading,
    why_no_modes,
)
from verify.builder.checkpoints import FOREIGN, Loading, observe_loading
from verify.builder.effects import EFFECTS, Effect, observe_effect
from verify.builder.initial import Initial, observe_initial
from verify.builder.observation import (
    FRAMES,
    MATCHER,
    Frozen,
    Matcher,
    observe_clip,
    observe_frozen,
    observe_matcher,
    observe_modes,
    observe_torch_state,
)
from verify.engine.check import HAZARD, THREADS, check
from verify.engine.finding import NotCovered, Violation
from verify.target.naming import Target
from verify.tensors.describe import count_by_part

WorldSizes = st.SearchStrategy[int]
Builds = st.SearchStrategy[Build]
builder_check = partial(
    check,
    "builder",
    from_json=build_from_json,
    why_not_provided=why_no_builder,
    launchers=(THREADS,),
    place_of_code=place_of_builder,
)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _with_and_without(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.sampled_from((Build(segmentation=False), Build()))


def _one(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.just(Build())


def _interactive(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.just(Build(tracker=True))


def _plain_and_full(target: Target, world_sizes: WorldSizes) -> Builds:
    """Without all optional parts, and with all of them."""
    return st.sampled_from((Build(segmentation=False), Build(tracker=True)))


@builder_check(_with_and_without, observe_clip, rests_on=("test_step_runs",))
def test_builds_for_clips(case: Build, observe: Callable[[Build], tuple[int, frozenset[str]]], target: Target) -> None:
    """The builder makes a model, on a machine without CUDA too, whose forward takes a clip of several frames.

    What allocates on CUDA whatever device it is asked for is worked around here; what fails all the same fails on
    every machine of a team but those with a GPU. A model whose forward takes one frame cannot train on video.
    """
    stages, _ = observe(case)
    if stages != FRAMES:
        raise Violation(
            f"the forward of a model built for training gives {stages} stages for a clip of {FRAMES} frames",
            expected=FRAMES,
            got=stages,
        )


@builder_check(_one, observe_matcher)
def test_matcher(case: Build, observe: Callable[[Build], Matcher], target: Target) -> None:
    """Built for training, the model has the recipe's matcher: it pairs predictions with targets as that does.

    Without a matcher training fails at its first step. With other costs it trains towards other pairs than sam3 was
    trained with, and only the results tell.
    """
    found = observe(case)
    if found.name is None:
        raise Violation("built with eval_mode=False, the model has no matcher", expected="BinaryHungarianMatcherV2")
    if found.differing:
        other = {name: value for name, value in found.settings.items() if value != MATCHER[name]}
        raise Violation(
            "the model's matcher pairs predictions with targets otherwise than the recipe's",
            expected=f"BinaryHungarianMatcherV2 with {_settings(MATCHER)}",
            got=f"{found.name}, in which {_settings(other) or 'these settings are the same'}; "
            f"{found.differing} draws were matched otherwise",
        )


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


@builder_check(_one, observe_modes, why_not_provided=why_no_modes)
def test_mode(case: Build, observe: Callable[[Build], Mapping[bool, tuple[str, ...]]], target: Target) -> None:
    """With eval_mode the whole model is in evaluation mode, without it in training mode.

    A model that detects in training mode drops out at random, and asks for targets; one that trains in evaluation
    mode is never matched with its targets.
    """
    for eval_mode, wrong in observe(case).items():
        if wrong:
            raise Violation(
                f"built with eval_mode={eval_mode}, parts of the model are in "
                f"{'training' if eval_mode else 'evaluation'} mode: {_listed(wrong)}",
                expected="evaluation mode" if eval_mode else "training mode",
            )


def _arguments(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.sampled_from([Build(subject=name) for name in EFFECTS if declares(target, name)])


@builder_check(_arguments, observe_effect, why_not_provided=why_no_arguments, rests_on=("test_builds_for_clips",))
def test_arguments(case: Build, observe: Callable[[Build], Effect | None], target: Target) -> bool | None:
    """Every argument that the builder declares has its effect.

    A configuration is believed: whoever sets enable_segmentation, async_all_gather or bpe_path gets a model without
    them, and looks for the reason elsewhere. With load_from_HF=False nothing is fetched: training from scratch must
    not start from a checkpoint, nor need a network.
    """
    effect = observe(case)
    if effect is None:
        return False
    if effect.got != effect.expected:
        raise Violation(
            f"the builder's argument {case.subject} does not have its effect: {effect.what}",
            expected=effect.expected,
            got=effect.got,
        )
    return None


@builder_check(_plain_and_full, observe_initial)
def test_initialised(case: Build, observe: Callable[[Build], Initial], target: Target) -> None:
    """Without a checkpoint every parameter and buffer is initialised, and two builds under one seed are equal.

    What torch.empty allocates and nobody writes holds whatever was in memory: usually small numbers, sometimes NaN.
    Then the matcher fails at the first step ("matrix contains invalid numeric entries"), or, worse, training goes on
    and can never be repeated. Here fresh memory is filled with NaN, so that it does not depend on luck.
    """
    found = observe(case)
    if found.uninitialised:
        raise Violation(
            f"{len(found.uninitialised)} of {found.count} parameters and buffers are never initialised, and hold what "
            f"was in memory (two builds under one seed differ, and can start with NaN): {_listed(found.uninitialised)}",
            tensor=found.uninitialised[0],
            expected="a value that the seed determines",
            got="NaN, with which fresh memory was filled",
        )
    if found.differing:
        raise Violation(
            f"two builds under one seed differ in {len(found.differing)} of {found.count} parameters and buffers: "
            f"{_listed(found.differing)}",
            tensor=found.differing[0],
        )


def _checkpoints(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.sampled_from(
        (Build(), Build(tracker=True, nested=True), Build(segmentation=False), Build(evaluation=True))
    )


@builder_check(_checkpoints, observe_loading, why_not_provided=why_no_loading)
def test_checkpoint(case: Build, observe: Callable[[Build], Loading], target: Target) -> None:
    """A checkpoint in sam3's layout loads: every key that has a place in the model is there afterwards.

    Released checkpoints name the detector's weights detector.* and the tracker's tracker.*, at times under the key
    model. A key that is dropped on the way leaves its layer at random values, in a model that is taken for pretrained.
    So too where the model is built without a segmentation head, or with eval_mode, as for evaluation.
    """
    found = observe(case)
    if found.failed:
        raise Violation(
            "a checkpoint with a tensor for each of the model's does not load", got=found.said.strip()[-600:]
        )
    if found.not_loaded:
        raise Violation(
            f"{len(found.not_loaded)} tensors of the checkpoint are not in the model that was built with it "
            f"({count_by_part(key.removeprefix('detector.') for key in found.not_loaded)}): "
            f"{_listed(found.not_loaded)}",
            tensor=found.not_loaded[0],
            expected="the checkpoint's values",
            got=f"others; the builder said {_said(found)}",
        )


def _said(found: Loading) -> str:
    text = " ".join(found.said.split())
    return f"{text[:300]!r}" if text else "nothing"


def _misfits(target: Target, world_sizes: WorldSizes) -> Builds:
    return st.sampled_from([Build(subject=misfit) for misfit in MISFITS])


@builder_check(_misfits, observe_loading, why_not_provided=why_no_loading)
def test_checkpoint_misfits(case: Build, observe: Callable[[Build], Loading], target: Target) -> None:
    """Of a checkpoint that does not fit, the builder names the keys: by an exception, a warning, a log or a print.

    What it says of a checkpoint that fits does not count, such as a list of all parameters. A key that is missing,
    under another prefix or of another shape leaves its layer at random values. Who is told renames the keys; who is not
    trains for a week from a model that never was what its file says.
    """
    found = observe(case)
    named = any(map(found.names, (*found.changed, FOREIGN)))
    loaded_all_the_same = case.subject == "no prefix" and not found.not_loaded
    if not named and not loaded_all_the_same:
        raise Violation(
            f"of a checkpoint with {case.subject} the builder does not say so: it names no such key as "
            f"{found.changed[0]}",
            tensor=found.changed[0],
            expected="an exception, a warning, a log record or a line that names it",
            got=f"{len(found.not_loaded)} tensors of the checkpoint are not in the model; the builder said "
            f"{_said(found)}",
        )


@builder_check(_plain_and_full, observe_frozen)
def test_gradients_on(case: Build, observe: Callable[[Build], Frozen], target: Target) -> bool | None:
    """Every parameter that sam3's one-frame builder leaves trainable is trainable.

    A parameter with requires_grad off never learns. The loss falls all the same, by what the others make up for. Where
    a model trains adapters beside frozen weights, or its builder is told by default to freeze some, that is taken for
    intended, and whether it is as intended cannot be told.
    """
    found = observe(case)
    if not found.compared:
        return False
    if found.off:
        frozen = f"{len(found.off)} of {found.compared} parameters that the one-frame builder trains are frozen"
        if found.adapters:
            raise NotCovered(f"{frozen}, and adapters are trained beside them: {_listed(found.adapters)}")
        if told := freezes(target):
            raise NotCovered(f"{frozen}, and the builder is told to by its default {told}")
        raise Violation(
            f"{frozen} ({count_by_part(found.off)}): {_listed(found.off)}",
            tensor=found.off[0],
            expected="requires_grad=True, as build_sam3_image_model leaves it",
            got="requires_grad=False",
        )
    return None


def _assert_left_alone(changed: tuple[str, ...], how: str) -> None:
    if changed:
        raise Violation(
            f"building {how} changes what torch keeps for the whole process",
            expected="what it was before",
            got="; ".join(changed),
        )


@builder_check(_with_and_without, observe_torch_state)
def test_autocast_left_alone(case: Build, observe: Callable[[Build], tuple[str, ...]], target: Target) -> None:
    """Building a model leaves torch's autocast as it was: off or on, its precision, and no context left open.

    A context that is opened and never closed puts all that follows under it. Training under AMP then computes with
    old weights: autocast keeps the copies that it casts until the outermost context ends, which is never. So too
    gradients that stay off, and another default type of new tensors.
    """
    _assert_left_alone(observe(case), "a model for training")


@builder_check(_interactive, observe_torch_state, kind=HAZARD)
def test_autocast_with_predictor(case: Build, observe: Callable[[Build], tuple[str, ...]], target: Target) -> None:
    """Building a model with sam3's interactive predictor leaves torch's autocast as it was.

    sam3's predictor opens autocast for good when it is made. Nobody trains with one today; who does trains with old
    weights under AMP, and in bfloat16 without.
    """
    _assert_left_alone(observe(case), "a model with an interactive predictor")
