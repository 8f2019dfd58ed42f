"""What each argument of a builder leads to: built with two values of it, and looked at."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from fixtures.ranks import Ranks
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.cpu import sam3_on_cpu
from reference.data.vocabulary import default_vocabulary
from reference.oracle import detection
from verify.builder.case import ARGUMENTS, Build
from verify.builder.observation import build_detector, build_model, observe_clip, on_rank_zero
from verify.clips.batch import on_device_of
from verify.clips.capture import captured_output
from verify.target.naming import Target
from verify.video.call import call_buffer
from verify.video.detector import features_of, why_no_buffer
from verify.video.real import prompt_of
from verify.video.scan import Scan, Visit


@dataclass(frozen=True)
class Effect:
    """What two values of an argument lead to."""

    what: str
    expected: str
    got: str


def _effect(what: str, expected: Mapping[Any, Any], got: Mapping[Any, Any]) -> Effect:
    def in_words(seen: Mapping[Any, Any]) -> str:
        return ", ".join(f"{argument}: {result}" for argument, result in seen.items())

    return Effect(what, in_words(expected), in_words(got))


def _enable_segmentation(ranks: Ranks, target: Target) -> Effect:
    masks = {
        value: "pred_masks" in observe_clip(ranks, target, Build(segmentation=value))[1] for value in (True, False)
    }
    return _effect("whether the forward's outputs hold masks (pred_masks)", {True: True, False: False}, masks)


def _has_neck(rank: int, world_size: int, target: Target, value: bool) -> bool:
    with sam3_on_cpu(), torch.no_grad():
        model: Any = build_detector(target, Build(tracker=value))
        images = on_device_of(model, make_clip(ClipSpec(frames=1))).img_batch
        return model.backbone.forward_image(images).get("sam2_backbone_out") is not None


def _enable_inst_interactivity(ranks: Ranks, target: Target) -> Effect:
    necks = {value: on_rank_zero(ranks, _has_neck, target, value) for value in (True, False)}
    return _effect("whether the backbone computes features for a tracker", {True: True, False: False}, necks)


def _answer(rank: int, world_size: int, target: Target, tracker: bool, arguments: Mapping[str, Any]) -> bool:
    """Ask the buffer for a frame; gives whether its answer holds features for a tracker."""
    with sam3_on_cpu(), torch.no_grad():
        model: Any = build_detector(target, Build(tracker=tracker), eval_mode=True, **arguments).eval()
        clip = on_device_of(model, make_clip(ClipSpec(frames=world_size, targets=False)))
        inputs = {
            "backbone_out": {"img_batch_all_stages": clip.img_batch, **detection.encode_text(model, clip)},
            "find_inputs": clip.find_inputs,
            "geometric_prompt": prompt_of(clip.find_inputs[0]),
        }
        return bool(features_of(call_buffer(target, model, Scan(world_size, world_size), Visit(0), inputs, {})))


def _async_all_gather(ranks: Ranks, target: Target) -> Effect | None:
    if why_no_buffer(target):
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
    if why_no_buffer(target) or not on_rank_zero(ranks, _has_neck, target, True):
        return None
    seen = {
        value: on_rank_zero(ranks, _answer, target, True, {"gather_backbone_out": value}) for value in (True, False)
    }
    return _effect("whether the buffer's answer holds features for a tracker", {True: True, False: False}, seen)


def _devices(rank: int, world_size: int, target: Target, device: str) -> str:
    tensors = build_model(target, Build(), device=device).state_dict().values()
    return " and ".join(sorted({tensor.device.type for tensor in tensors}))


def _device(ranks: Ranks, target: Target) -> Effect:
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    seen = {device: on_rank_zero(ranks, _devices, target, device) for device in devices}
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
            build_model(target, Build(), load_from_HF=value)
        except Exception:
            if not tried:
                raise
    return bool(tried)


def _load_from_hf(ranks: Ranks, target: Target) -> Effect:
    seen = {value: on_rank_zero(ranks, _fetches, target, value) for value in (True, False)}
    return _effect("whether a checkpoint is fetched where no path is given", {True: True, False: False}, seen)


def _text_features(rank: int, world_size: int, target: Target, path: str) -> torch.Tensor:
    with sam3_on_cpu(), torch.no_grad():
        model = build_detector(target, Build(segmentation=False), bpe_path=path)
        clip = on_device_of(model, make_clip(ClipSpec(frames=1)))
        return detection.encode_text(model, clip)["language_features"].cpu()


def _bpe_path(ranks: Ranks, target: Target) -> Effect:
    """Another vocabulary, with its merges in reverse, cuts words otherwise: the same text has other features."""
    import gzip

    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "reversed.txt.gz"
        head, *merges = gzip.decompress(Path(default_vocabulary()).read_bytes()).decode().split("\n")
        other.write_bytes(gzip.compress("\n".join([head, *reversed(merges[:-1]), merges[-1]]).encode(), 1))
        features = [on_rank_zero(ranks, _text_features, target, path) for path in (default_vocabulary(), str(other))]
    differ = features[0].shape != features[1].shape or not torch.equal(*features)
    return _effect("whether another vocabulary gives a text other features", {"bpe_path": True}, {"bpe_path": differ})


def _compiled(rank: int, world_size: int, target: Target, value: bool) -> bool:
    calls = []

    def compiling(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        calls.append(model)
        return (lambda function: function) if model is None else model

    with mock.patch("torch.compile", compiling), mock.patch.object(nn.Module, "compile", compiling):
        build_model(target, Build(), compile=value)
    return bool(calls)


def _compile(ranks: Ranks, target: Target) -> Effect:
    seen = {value: on_rank_zero(ranks, _compiled, target, value) for value in (True, False)}
    return _effect("whether anything is compiled (torch.compile)", {True: True, False: False}, seen)


#: How to see that an argument is heeded, in the order of ``ARGUMENTS``.
EFFECTS: Mapping[str, Callable[[Ranks, Target], Effect | None]] = dict(
    zip(
        ARGUMENTS,
        (
            _enable_segmentation,
            _enable_inst_interactivity,
            _async_all_gather,
            _gather_backbone_out,
            _device,
            _load_from_hf,
            _bpe_path,
            _compile,
        ),
        strict=True,
    )
)


def observe_effect(ranks: Ranks, target: Target, case: Build) -> Effect | None:
    """Build with two values of the argument ``case.subject``; None where there is nothing to see.

    Raises:
        RanksFailed: when the builder, or what is asked of the model, fails.
    """
    return EFFECTS[case.subject](ranks, target)
