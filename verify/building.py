"""What a target's own builder makes: the calls of it that checks look at, each at toy width."""

from __future__ import annotations

import inspect
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, fields
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from fixtures.clips import ClipSpec, make_clip
from fixtures.cpu import sam3_on_cpu
from fixtures.ranks import Ranks, progress
from fixtures.stir import stir
from fixtures.toy import build_toy
from reference import detection
from reference.generators import seeded
from reference.vocabulary import default_vocabulary
from verify.case import changed_fields, refuse_unknown_fields
from verify.clip_run import captured_output, read_stages
from verify.ddp import on_device_of
from verify.observation import features_of
from verify.subject import buffer_of, lacks_buffer
from verify.target import Target, load

#: Longest clip that a new model is tried on.
FRAMES = 3


@dataclass(frozen=True)
class Build:
    """A call of the target's builder, and what about it is looked at."""

    #: The argument whose effect is looked at, or what is odd about a checkpoint.
    subject: str = ""
    segmentation: bool = True
    #: Whether there is a tracker neck, with sam3's interactive predictor.
    tracker: bool = False
    #: Whether a checkpoint's keys lie under the key ``model``.
    nested: bool = False
    seed: int = 0

    @property
    def world_size(self) -> int:
        return 1

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON."""
        return changed_fields(self)


def build_from_json(data: Mapping[str, Any]) -> Build:
    """Read a case as ``Build.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(Build, data)
    types = {field.name: type(field.default) for field in fields(Build)}
    for name, value in data.items():
        if type(value) is not types[name]:
            raise ValueError(f"{name} is {value!r}: expected a {types[name].__name__}")
    subject = data.get("subject", "")
    if subject and subject not in EFFECTS and subject not in MISFITS:
        raise ValueError(f"subject is {subject!r}; it is one of {', '.join((*EFFECTS, *MISFITS))}")
    return Build(**data)


def lacks_builder(target: Target) -> str | None:
    """Say why a target has no builder to verify, or give None where it has one."""
    if load(target).own_builder:
        return None
    return (
        f"{target.spec} has no builder of its own (build_sam3_image_video_model, or one named with --builder): its "
        "parts were put together here"
    )


def lacks_arguments(target: Target) -> str | None:
    """Say why no argument of a target's builder can be looked at, or give None where one can."""
    if lacks := lacks_builder(target):
        return lacks
    return None if any(declares(target, name) for name in EFFECTS) else "its builder declares none of the recipe's"


def lacks_loading(target: Target) -> str | None:
    """Say why a target's builder cannot be asked to load a checkpoint, or give None where it can."""
    if lacks := lacks_builder(target):
        return lacks
    return None if declares(target, "checkpoint_path") else "its builder has no argument checkpoint_path"


class ForwardFailed(Exception):
    """A model that the builder made for training fails on a clip."""


def _build(target: Target, case: Build, seed: int = 0, **arguments: Any) -> nn.Module:
    settings: dict[str, Any] = {
        "enable_segmentation": case.segmentation,
        "enable_inst_interactivity": case.tracker,
        "eval_mode": False,
        **arguments,
    }
    model = build_toy(load(target).builder, seed, **settings).model
    progress()
    return model


def declares(target: Target, argument: str) -> bool:
    """Whether the target's builder has an argument of this name."""
    return argument in inspect.signature(load(target).builder).parameters


def _in_one_rank(ranks: Ranks, function: Callable[..., Any], *args: Any, world_size: int = 1) -> Any:
    """Run on ranks, quietly, and give what rank 0 gave."""
    with captured_output():
        return ranks.run(function, world_size, *args)[0].value


# A model for clips


def _outputs_of_clip(rank: int, world_size: int, target: Target, case: Build) -> tuple[int, frozenset[str]]:
    with sam3_on_cpu():
        model = _build(target, case)
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
    return _in_one_rank(ranks, _outputs_of_clip, target, case)


# Matcher and mode

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


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one.cpu(), other.cpu())
    return one is other or bool(one == other)


def _boxes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    centre = 0.35 + 0.3 * torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre, 0.1 + 0.4 * torch.rand(*shape, 2, generator=generator)], dim=-1)


def _matcher(rank: int, world_size: int, target: Target, case: Build) -> Matcher:
    from sam3.train.matcher import BinaryHungarianMatcherV2

    with sam3_on_cpu():
        found: Any = getattr(_build(target, case), "matcher", None)
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
            differing += not _same(found(predictions, targets), right(predictions, targets))
        settings = {name: getattr(found, name) for name in MATCHER if hasattr(found, name)}
        return Matcher(type(found).__name__, settings, differing)


def observe_matcher(ranks: Ranks, target: Target, case: Build) -> Matcher:
    """Build for training and match predictions with targets.

    Raises:
        RanksFailed: when the builder or its matcher fails.
    """
    return _in_one_rank(ranks, _matcher, target, case)


def _modes(rank: int, world_size: int, target: Target, case: Build) -> dict[bool, tuple[str, ...]]:
    wrong = {}
    for eval_mode in (True, False):
        model = _build(target, case, eval_mode=eval_mode)
        wrong[eval_mode] = tuple(
            name or type(model).__name__ for name, module in model.named_modules() if module.training == eval_mode
        )
    return wrong


def observe_modes(ranks: Ranks, target: Target, case: Build) -> Mapping[bool, tuple[str, ...]]:
    """Build with eval_mode on and off; gives, for each, the modules that are in the other mode.

    Raises:
        RanksFailed: when the builder fails.
    """
    return _in_one_rank(ranks, _modes, target, case)


# Arguments


@dataclass(frozen=True)
class Effect:
    """What two values of an argument lead to."""

    what: str
    expected: str
    got: str


def _effect(what: str, expected: Mapping[Any, Any], got: Mapping[Any, Any]) -> Effect:
    def told(seen: Mapping[Any, Any]) -> str:
        return ", ".join(f"{argument}: {result}" for argument, result in seen.items())

    return Effect(what, told(expected), told(got))


def _enable_segmentation(ranks: Ranks, target: Target) -> Effect:
    masks = {
        value: "pred_masks" in observe_clip(ranks, target, Build(segmentation=value))[1] for value in (True, False)
    }
    return _effect("whether the forward's outputs hold masks (pred_masks)", {True: True, False: False}, masks)


def _has_neck(rank: int, world_size: int, target: Target, value: bool) -> bool:
    with sam3_on_cpu(), torch.no_grad():
        model: Any = _build(target, Build(tracker=value))
        images = on_device_of(model, make_clip(ClipSpec(frames=1))).img_batch
        return model.backbone.forward_image(images).get("sam2_backbone_out") is not None


def _enable_inst_interactivity(ranks: Ranks, target: Target) -> Effect:
    necks = {value: _in_one_rank(ranks, _has_neck, target, value) for value in (True, False)}
    return _effect("whether the backbone computes features for a tracker", {True: True, False: False}, necks)


def _answer(rank: int, world_size: int, target: Target, tracker: bool, arguments: Mapping[str, Any]) -> bool:
    """Ask the buffer for a frame; gives whether its answer holds features for a tracker."""
    with sam3_on_cpu(), torch.no_grad():
        model: Any = _build(target, Build(tracker=tracker), eval_mode=True, **arguments).eval()
        clip = on_device_of(model, make_clip(ClipSpec(frames=world_size, targets=False)))
        stage = clip.find_inputs[0]
        from sam3.model.geometry_encoders import Prompt

        prompt = Prompt(stage.input_boxes, stage.input_boxes_mask, box_labels=stage.input_boxes_label)
        declared = inspect.signature(buffer_of(model)).parameters
        asking = {
            name: True for name in ("return_sam2_backbone_feats", "return_tracker_backbone_feats") if name in declared
        }
        returned = buffer_of(model)(
            backbone_out={"img_batch_all_stages": clip.img_batch, **detection.encode_text(model, clip)},
            find_inputs=clip.find_inputs,
            geometric_prompt=prompt,
            frame_idx=0,
            num_frames=world_size,
            multigpu_buffer={},
            **asking,
        )
        return bool(features_of(returned[0] if isinstance(returned, tuple) else returned))


def _async_all_gather(ranks: Ranks, target: Target) -> Effect | None:
    if lacks_buffer(target):
        return None
    seen = {}
    for value in (True, False):
        with captured_output():
            arguments = {"async_all_gather": value, "gather_backbone_out": False}
            results = ranks.run(_answer, 2, target, False, arguments)
        gathers = [entry for result in results for entry in result.collectives if "gather" in entry.operation]
        if not gathers:
            return None  # what another check has to say
        seen[value] = any(entry.asynchronous for entry in gathers)
    return _effect("whether gathers between two ranks are asynchronous", {True: True, False: False}, seen)


def _gather_backbone_out(ranks: Ranks, target: Target) -> Effect | None:
    if lacks_buffer(target) or not _in_one_rank(ranks, _has_neck, target, True):
        return None
    seen = {
        value: _in_one_rank(ranks, _answer, target, True, {"gather_backbone_out": value}) for value in (True, False)
    }
    return _effect("whether the buffer's answer holds features for a tracker", {True: True, False: False}, seen)


def _devices(rank: int, world_size: int, target: Target, device: str) -> str:
    tensors = _build(target, Build(), device=device).state_dict().values()
    return " and ".join(sorted({tensor.device.type for tensor in tensors}))


def _device(ranks: Ranks, target: Target) -> Effect:
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    seen = {device: _in_one_rank(ranks, _devices, target, device) for device in devices}
    return _effect("where the model's parameters and buffers are", {device: device for device in devices}, seen)


class _Downloading(Exception):
    """The builder reached for the network."""


#: Functions that fetch a checkpoint, wherever a module has imported them by name.
_FETCHING = ("hf_hub_download", "snapshot_download", "download_ckpt_from_hf", "load_state_dict_from_url", "urlopen")


@contextmanager
def _offline() -> Iterator[list[str]]:
    """Let every way of fetching a checkpoint raise; yields the names of those that were tried."""
    tried: list[str] = []

    def refuse(name: str) -> Callable[..., Any]:
        def refusing(*args: Any, **kwargs: Any) -> Any:
            tried.append(name)
            raise _Downloading(name)

        return refusing

    with ExitStack() as patched:
        for module in list(sys.modules.values()):
            held = getattr(module, "__dict__", {})
            for name in _FETCHING:
                if callable(held.get(name)):
                    patched.enter_context(mock.patch.dict(held, {name: refuse(name)}))
        for name in ("socket.socket.connect", "socket.getaddrinfo"):
            patched.enter_context(mock.patch(name, refuse(name)))
        yield tried


def _fetches(rank: int, world_size: int, target: Target, value: bool) -> bool:
    with _offline() as tried:
        try:
            _build(target, Build(), load_from_HF=value)
        except Exception:
            if not tried:
                raise
    return bool(tried)


def _load_from_hf(ranks: Ranks, target: Target) -> Effect:
    seen = {value: _in_one_rank(ranks, _fetches, target, value) for value in (True, False)}
    return _effect("whether a checkpoint is fetched where no path is given", {True: True, False: False}, seen)


def _text_features(rank: int, world_size: int, target: Target, path: str) -> torch.Tensor:
    with sam3_on_cpu(), torch.no_grad():
        model = _build(target, Build(segmentation=False), bpe_path=path)
        clip = on_device_of(model, make_clip(ClipSpec(frames=1)))
        return detection.encode_text(model, clip)["language_features"].cpu()


def _bpe_path(ranks: Ranks, target: Target) -> Effect:
    """Another vocabulary, with its merges in reverse, cuts words otherwise: the same text has other features."""
    import gzip

    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "reversed.txt.gz"
        head, *merges = gzip.decompress(Path(default_vocabulary()).read_bytes()).decode().split("\n")
        other.write_bytes(gzip.compress("\n".join([head, *reversed(merges[:-1]), merges[-1]]).encode(), 1))
        features = [_in_one_rank(ranks, _text_features, target, path) for path in (default_vocabulary(), str(other))]
    differ = features[0].shape != features[1].shape or not torch.equal(*features)
    return _effect("whether another vocabulary gives a text other features", {"bpe_path": True}, {"bpe_path": differ})


def _compiled(rank: int, world_size: int, target: Target, value: bool) -> bool:
    calls = []

    def compiling(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        calls.append(model)
        return (lambda function: function) if model is None else model

    with mock.patch("torch.compile", compiling), mock.patch.object(nn.Module, "compile", compiling):
        _build(target, Build(), compile=value)
    return bool(calls)


def _compile(ranks: Ranks, target: Target) -> Effect:
    seen = {value: _in_one_rank(ranks, _compiled, target, value) for value in (True, False)}
    return _effect("whether anything is compiled (torch.compile)", {True: True, False: False}, seen)


#: How to see that an argument is heeded; ``eval_mode`` and ``checkpoint_path`` have checks of their own.
EFFECTS: Mapping[str, Callable[[Ranks, Target], Effect | None]] = {
    "enable_segmentation": _enable_segmentation,
    "enable_inst_interactivity": _enable_inst_interactivity,
    "async_all_gather": _async_all_gather,
    "gather_backbone_out": _gather_backbone_out,
    "device": _device,
    "load_from_HF": _load_from_hf,
    "bpe_path": _bpe_path,
    "compile": _compile,
}


def observe_effect(ranks: Ranks, target: Target, case: Build) -> Effect | None:
    """Build with two values of the argument ``case.subject``; None where there is nothing to see.

    Raises:
        RanksFailed: when the builder, or what is asked of the model, fails.
    """
    return EFFECTS[case.subject](ranks, target)


# Initial values


@dataclass(frozen=True)
class Initial:
    """The initial parameters and buffers of two builds under one seed, in fresh memory that holds NaN."""

    #: Names of those that hold values of fresh memory in the first build.
    uninitialised: tuple[str, ...]
    #: Names of those that differ between the builds.
    differing: tuple[str, ...]
    count: int


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _is_fresh(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(torch.isnan(tensor).any())
    return tensor.dtype != torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).any())


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    return bool((same | (one != one) & (other != other)).all())


def _initial(rank: int, world_size: int, target: Target, case: Build) -> Initial:
    builds = []
    for _ in range(2):
        with seeded(case.seed):
            builds.append(_tensors(_build(target, case, case.seed, initialise=False)))
    one, other = builds
    fresh = tuple(name for name, tensor in one.items() if _is_fresh(tensor))
    differing = tuple(name for name in one if name not in other or not _equal(one[name], other[name]))
    return Initial(fresh, differing, len(one))


def observe_initial(ranks: Ranks, target: Target, case: Build) -> Initial:
    """Build twice under one seed, with fresh memory filled with NaN.

    Raises:
        RanksFailed: when the builder fails.
    """
    return _in_one_rank(ranks, _initial, target, case)


# Checkpoints

DETECTOR, TRACKER, PREDICTOR = "detector.", "tracker.", "inst_interactive_predictor.model."
#: A prefix that is in no layout of sam3's.
FOREIGN = "image_model."
#: How a checkpoint may not fit.
MISFITS = ("a missing key", "a foreign prefix", "no prefix", "a tensor of another shape")


@dataclass(frozen=True)
class Loading:
    """What came of building with a checkpoint."""

    #: The file's key that was left out or changed, and its name in the model.
    changed: tuple[str, str]
    #: Keys of the file whose tensor is not in the model afterwards, though it has a place for it.
    not_loaded: tuple[str, ...]
    #: Whether the builder raised.
    failed: bool
    #: All that was said: exception, warnings, log (from warnings up), standard output and error.
    said: str


def _released(name: str) -> str:
    """The key of a detector's tensor in a released checkpoint."""
    return TRACKER + name.removeprefix(PREDICTOR) if name.startswith(PREDICTOR) else DETECTOR + name


@lru_cache(maxsize=4)
def _weights(target: Target, tracker: bool) -> Mapping[str, torch.Tensor]:
    """The tensors of a model that no other build comes to."""
    return stir(_build(target, Build(tracker=tracker), 1), 1).state_dict()


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Catch warnings and log records, from warnings up, of any logger, and standard error."""
    heard: list[str] = []

    def listening(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            heard.append(record.getMessage())

    errors = StringIO()
    with (
        mock.patch.object(logging.Logger, "handle", listening),
        warnings.catch_warnings(record=True) as warned,
        redirect_stderr(errors),
    ):
        warnings.simplefilter("always")
        try:
            yield heard
        finally:
            heard += [str(warning.message) for warning in warned]
            heard.append(errors.getvalue())


def _load(rank: int, world_size: int, target: Target, case: Build) -> Loading:
    right = dict(_weights(target, case.tracker))
    names = {_released(name): name for name in right}
    file = {key: right[name] for key, name in names.items()}
    floating = [key for key, tensor in file.items() if tensor.is_floating_point() and tensor.ndim == 2]
    changed = floating[len(floating) // 2]
    changed_name = names[changed]
    if not case.tracker:
        # A released checkpoint holds the tracker, whether or not the model has a place for it.
        file[f"{TRACKER}maskmem_tpos_enc"] = torch.zeros(1)
    if case.subject == "a missing key":
        del file[changed]
    elif case.subject == "a tensor of another shape":
        file[changed] = torch.zeros(3, 5)
    elif case.subject in ("a foreign prefix", "no prefix"):
        prefix = FOREIGN if case.subject == "a foreign prefix" else ""
        file = {prefix + names[key]: tensor for key, tensor in file.items() if key in names}
        names = {prefix + name: name for name in right}
        changed = prefix + changed_name
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "checkpoint.pt")
        torch.save({"model": file} if case.nested else file, path)
        failed, model = "", None
        with captured_output() as written, _heard() as heard:
            try:
                model = _build(target, case, checkpoint_path=path)
            except Exception as error:
                failed = str(error)
            said = written()
    loaded = {} if model is None else model.state_dict()
    not_loaded = tuple(
        key
        for key, tensor in file.items()
        if (name := names.get(key)) is not None
        and not (name in loaded and loaded[name].shape == tensor.shape and torch.equal(loaded[name].cpu(), tensor))
    )
    return Loading((changed, changed_name), not_loaded, bool(failed), "\n".join([said, *heard, failed]))


def observe_loading(ranks: Ranks, target: Target, case: Build) -> Loading:
    """Build with a checkpoint in sam3's layout, whole or not fitting as ``case.subject`` says.

    Raises:
        RanksFailed: when the builder fails without one.
    """
    return _in_one_rank(ranks, _load, target, case)


# Gradients


def _gradients_off(rank: int, world_size: int, target: Target, case: Build) -> tuple[tuple[str, ...], int]:
    from sam3 import model_builder

    one_frame = getattr(model_builder, "build_sam3_image_model", None)
    if one_frame is None:
        return (), 0
    arguments = {"enable_segmentation": case.segmentation, "enable_inst_interactivity": case.tracker}
    image_model = build_toy(one_frame, eval_mode=False, **arguments).model
    progress()
    mine = dict(_build(target, case).named_parameters())
    off, compared = [], 0
    for name, parameter in image_model.named_parameters():
        found = mine.get(name)
        if found is None:  # a model that wraps the detector names it otherwise
            ending = [other for other in mine if other.endswith(f".{name}")]
            found = mine[ending[0]] if len(ending) == 1 else None
        if found is not None and parameter.requires_grad:
            compared += 1
            if not found.requires_grad:
                off.append(name)
    return tuple(off), compared


def observe_gradients_off(ranks: Ranks, target: Target, case: Build) -> tuple[tuple[str, ...], int]:
    """Compare with sam3's one-frame builder: parameters without gradient where its have one, and how many have.

    Raises:
        RanksFailed: when a builder fails.
    """
    return _in_one_rank(ranks, _gradients_off, target, case)
