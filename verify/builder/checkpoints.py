"""Building with a checkpoint in sam3's layout: what is loaded of it, and what is said of the rest."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from fixtures.ranks import Ranks
from fixtures.toy.weights import perturb_weights
from verify.builder.case import MISFITS, Build
from verify.builder.observation import build_detector, build_one_frame, on_rank_zero
from verify.clips.capture import captured_output
from verify.target.naming import Target

DETECTOR, TRACKER, PREDICTOR = "detector.", "tracker.", "inst_interactive_predictor.model."
#: A prefix that is in no layout of sam3's.
FOREIGN = "image_model."


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
    #: What is said of a checkpoint that fits, where this one does not: of that, nothing is news.
    said_anyway: str = ""

    def names(self, key: str) -> bool:
        """Whether a key is named more often than with a checkpoint that fits."""
        return self.said.count(key) > self.said_anyway.count(key)


def _released(name: str) -> str:
    """The key of a detector's tensor in a released checkpoint."""
    return TRACKER + name.removeprefix(PREDICTOR) if name.startswith(PREDICTOR) else DETECTOR + name


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.cpu(), other)


def _places(state: Mapping[str, torch.Tensor], name: str, tensor: torch.Tensor) -> list[torch.Tensor]:
    """What of a model's ``state`` may be a checkpoint's tensor: what has its name, or its shape in its layer.

    An adapter around a layer holds the layer's weights under another name.
    """
    if name in state:
        return [state[name]]
    layer = f"{name.rpartition('.')[0]}."
    return [held for key, held in state.items() if key.startswith(layer) and held.shape == tensor.shape]


def _lost(state: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> list[str]:
    """Which of the ``right`` tensors are not in a model's ``state``, though it has a place for them."""
    return [
        name
        for name, tensor in right.items()
        if (places := _places(state, name, tensor)) and not any(_same(held, tensor) for held in places)
    ]


@lru_cache(maxsize=4)
def _weights(target: Target, tracker: bool) -> Mapping[str, torch.Tensor]:
    """The tensors of a checkpoint, with values that no other build comes to: those of sam3's one-frame model.

    Of those, what the target's model has a place for; it may hold more, and what is released does not. Where it has a
    place for none, its own.
    """
    case = Build(tracker=tracker)
    own = perturb_weights(build_detector(target, case, 1), 1).state_dict()
    one_frame = build_one_frame(case, 1)
    if one_frame is None:
        return own
    released = perturb_weights(one_frame, 1).state_dict()
    return {name: tensor for name, tensor in released.items() if _places(own, name, tensor)} or own


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


def _built_with(target: Target, case: Build, file: Mapping[str, torch.Tensor]) -> tuple[nn.Module | None, str]:
    """Build with a checkpoint; gives the model, or None where the builder raised, and all that was said."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "checkpoint.pt")
        torch.save({"model": file} if case.nested else file, path)
        failed, model = "", None
        with captured_output() as written, _heard() as heard:
            try:
                model = build_detector(target, case, checkpoint_path=path)
            except Exception as error:
                failed = str(error)
            said = written()
    return model, "\n".join([said, *heard, failed])


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
    anyway = _built_with(target, case, dict(file))[1] if case.subject in MISFITS else ""
    if case.subject == "a missing key":
        del file[changed]
    elif case.subject == "a tensor of another shape":
        file[changed] = torch.zeros(3, 5)
    elif case.subject in ("a foreign prefix", "no prefix"):
        prefix = FOREIGN if case.subject == "a foreign prefix" else ""
        file = {prefix + names[key]: tensor for key, tensor in file.items() if key in names}
        names = {prefix + name: name for name in right}
        changed = prefix + changed_name
    model, said = _built_with(target, case, file)
    # A released checkpoint holds all parts, also those that a model is built without.
    in_file = {names[key]: tensor for key, tensor in file.items() if key in names}
    lost = in_file if model is None else _lost(model.state_dict(), in_file)
    not_loaded = tuple(key for key, name in names.items() if key in file and name in lost)
    return Loading((changed, changed_name), not_loaded, model is None, said, anyway)


def observe_loading(ranks: Ranks, target: Target, case: Build) -> Loading:
    """Build with a checkpoint in sam3's layout, whole or not fitting as ``case.subject`` says.

    Raises:
        RanksFailed: when the builder fails without one.
    """
    return on_rank_zero(ranks, _load, target, case)
