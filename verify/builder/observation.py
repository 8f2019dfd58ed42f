"""What a target's own builder makes: the calls of it that checks look at, each at toy width."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fixtures.ranks import Ranks, progress
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.build import Construction, build_toy
from fixtures.toy.cpu import sam3_on_cpu
from fixtures.toy.shrink import CannotShrink
from verify.builder.case import Build
from verify.clips.batch import on_device_of
from verify.clips.capture import captured_output
from verify.clips.stages import read_stages
from verify.target.loading import load
from verify.target.naming import Target

#: Longest clip that a new model is tried on.
FRAMES = 3


class ForwardFailed(Exception):
    """A model that the builder made for training fails on a clip."""


def construct(target: Target, case: Build, seed: int = 0, **arguments: Any) -> Construction:
    settings: dict[str, Any] = {
        "enable_segmentation": case.segmentation,
        "enable_inst_interactivity": case.tracker,
        "eval_mode": case.evaluation,
        **arguments,
    }
    built = build_toy(load(target).builder, seed, **settings)
    progress()
    return built


def build_model(target: Target, case: Build, seed: int = 0, **arguments: Any) -> nn.Module:
    return construct(target, case, seed, **arguments).model


def build_detector(target: Target, case: Build, seed: int = 0, **arguments: Any) -> nn.Module:
    """Build, and give the detector: what was built, or the part of it that it is wrapped around."""
    return build_model(target, case, seed, methods=("forward_grounding",), **arguments)


def _torch_changed(rank: int, world_size: int, target: Target, case: Build) -> tuple[str, ...]:
    return construct(target, case).torch_changed


def observe_torch_state(ranks: Ranks, target: Target, case: Build) -> tuple[str, ...]:
    """Build for training; gives what torch keeps that is another afterwards, in words.

    Raises:
        RanksFailed: when the builder fails.
    """
    changed: tuple[str, ...] = on_rank_zero(ranks, _torch_changed, target, case)
    return changed


def on_rank_zero(ranks: Ranks, function: Callable[..., Any], *args: Any, world_size: int = 1) -> Any:
    """Run on ranks, quietly, and give what rank 0 gave."""
    with captured_output():
        return ranks.run(function, world_size, *args)[0].value


def _outputs_of_clip(rank: int, world_size: int, target: Target, case: Build) -> tuple[int, frozenset[str]]:
    with sam3_on_cpu():
        model = build_model(target, case)
        spec = ClipSpec(frames=FRAMES, masks=case.segmentation, seed=case.seed)
        try:
            with torch.no_grad():
                stages = read_stages(model(on_device_of(model, make_clip(spec)))).steps
        except Exception as error:
            raise ForwardFailed(f"on a clip of {FRAMES} frames: {type(error).__name__}: {error}") from error
    return len(stages), frozenset(key for steps in stages for step in steps for key in step)


def observe_clip(ranks: Ranks, target: Target, case: Build) -> tuple[int, frozenset[str]]:
    """Build for training and take a clip of ``FRAMES`` frames; gives the number of stages and all outputs' keys.

    Raises:
        RanksFailed: when the builder or the forward fails.
    """
    return on_rank_zero(ranks, _outputs_of_clip, target, case)


#: The recipe's matcher: settings of ``BinaryHungarianMatcherV2``.
MATCHER: Mapping[str, Any] = {
    "focal": True,
    "cost_class": 2.0,
    "cost_bbox": 5.0,
    "cost_giou": 2.0,
    "alpha": 0.25,
    "gamma": 2,
    "stable": False,
}
_MATCHINGS = 40


@dataclass(frozen=True)
class Matcher:
    """The matcher of a model built for training."""

    #: Its class; None where there is no matcher.
    name: str | None
    #: Those of the recipe's settings that it holds under the same name.
    settings: Mapping[str, Any]
    #: Of some draws of predictions and targets, those that it matches otherwise than the recipe's.
    differing: int


def _equal_matches(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_equal_matches(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one.cpu(), other.cpu())
    return one is other or bool(one == other)


def _boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    centre = 0.35 + 0.3 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre, 0.1 + 0.4 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def _matcher(rank: int, world_size: int, target: Target, case: Build) -> Matcher:
    from sam3.train.matcher import BinaryHungarianMatcherV2

    with sam3_on_cpu():
        found: Any = getattr(build_detector(target, case), "matcher", None)
        if found is None:
            return Matcher(None, {}, 0)
        right = BinaryHungarianMatcherV2(**MATCHER)
        generator = torch.Generator().manual_seed(case.seed)
        differing = 0
        for _ in range(_MATCHINGS):
            predictions = {
                "pred_logits": 3 * torch.randn(3, 8, 1, generator=generator),
                "pred_boxes": _boxes(generator, 3, 8),
            }
            boxes, counts = _boxes(generator, 3, 4), torch.tensor([4, 0, 3])
            packed = torch.cat([row[:count] for row, count in zip(boxes, counts.tolist(), strict=True)])
            targets = {"boxes": packed, "boxes_padded": boxes, "num_boxes": counts}
            differing += not _equal_matches(found(predictions, targets), right(predictions, targets))
        settings = {name: getattr(found, name) for name in MATCHER if hasattr(found, name)}
        return Matcher(type(found).__name__, settings, differing)


def observe_matcher(ranks: Ranks, target: Target, case: Build) -> Matcher:
    """Build for training and match predictions with targets.

    Raises:
        RanksFailed: when the builder or its matcher fails.
    """
    return on_rank_zero(ranks, _matcher, target, case)


def _reads_its_mode(kind: type) -> bool:
    """Whether modules of a class do anything by their mode; one whose source cannot be read is taken to."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        try:
            if ".training" in inspect.getsource(base):
                return True
        except (OSError, TypeError):
            return True
    return False


def _modes(rank: int, world_size: int, target: Target, case: Build) -> dict[bool, tuple[str, ...]]:
    wrong = {}
    for eval_mode in (True, False):
        model = build_model(target, case, eval_mode=eval_mode)
        kinds = {kind for kind in {type(module) for module in model.modules()} if _reads_its_mode(kind)}
        wrong[eval_mode] = tuple(
            name or type(model).__name__
            for name, module in model.named_modules()
            if module.training == eval_mode and type(module) in kinds
        )
    return wrong


def observe_modes(ranks: Ranks, target: Target, case: Build) -> Mapping[bool, tuple[str, ...]]:
    """Build with eval_mode on and off; gives, for each, the modules that are in the other mode and read it.

    Raises:
        RanksFailed: when the builder fails.
    """
    return on_rank_zero(ranks, _modes, target, case)


@dataclass(frozen=True)
class Frozen:
    """What of a model is frozen, against sam3's one-frame model."""

    #: Parameters that the one-frame builder leaves trainable and that are frozen here.
    off: tuple[str, ...]
    #: How many there are that the one-frame builder leaves trainable.
    compared: int
    #: Parameters beside frozen ones that are trained in their stead.
    adapters: tuple[str, ...] = ()


def _adapters(model: nn.Module, known: Container[str]) -> tuple[str, ...]:
    """The trained parameters, of those not ``known``, that have nothing but frozen ones beside them.

    Beside them is what the smallest part of the model holds that holds more than such parameters.
    """
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    new = {name for name, on in trained.items() if on and name not in known}
    others = {name: on for name, on in trained.items() if name not in new}
    found = []
    for name in sorted(new):
        part = name
        while part:
            part = part.rpartition(".")[0]
            beside = [on for other, on in others.items() if not part or other.startswith(f"{part}.")]
            if beside:
                if not any(beside):
                    found.append(name)
                break
    return tuple(found)


def build_one_frame(case: Build, seed: int = 0) -> nn.Module | None:
    """The model of sam3's own one-frame builder, with the parts of a case; None where there is none to be called."""
    from sam3 import model_builder

    one_frame = getattr(model_builder, "build_sam3_image_model", None)
    if one_frame is None:
        return None
    arguments: dict[str, Any] = {"enable_segmentation": case.segmentation, "enable_inst_interactivity": case.tracker}
    try:
        built = build_toy(one_frame, seed, eval_mode=False, **arguments)
    except CannotShrink:
        return None  # a fork may have changed it, and train by its own builder alone
    progress()
    return built.model


def _frozen(rank: int, world_size: int, target: Target, case: Build) -> Frozen:
    image_model = build_one_frame(case)
    if image_model is None:
        return Frozen((), 0)
    model = build_model(target, case)
    mine = dict(model.named_parameters())
    off, compared, known = [], 0, set()
    for name, parameter in image_model.named_parameters():
        found = mine.get(name)
        known.add(name)
        if found is None:  # a model that wraps the detector names it otherwise
            ending = [other for other in mine if other.endswith(f".{name}")]
            found = mine[ending[0]] if len(ending) == 1 else None
            known.update(ending)
        if found is not None and parameter.requires_grad:
            compared += 1
            if not found.requires_grad:
                off.append(name)
    return Frozen(tuple(off), compared, _adapters(model, known))


def observe_frozen(ranks: Ranks, target: Target, case: Build) -> Frozen:
    """Compare with sam3's one-frame builder what can be trained.

    Raises:
        RanksFailed: when a builder fails.
    """
    return on_rank_zero(ranks, _frozen, target, case)
