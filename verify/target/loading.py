"""Importing what a target names: its class, its builder, its loss, its configuration."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fixtures.toy.build import assemble
from verify.target.naming import BUFFER_METHOD, BUILDER, DETECTOR, LOSS, OURS, SYMBOL, Target, TargetError, is_path


@dataclass(frozen=True)
class Loaded:
    """What a target provides."""

    #: The class with the chunked buffer, or None where only a builder is named.
    detector: type[nn.Module] | None
    #: Makes a model; the package's own builder, the one named, or one assembled around the class.
    builder: Callable[..., nn.Module]
    #: Whether the builder is the target's own, so that it can itself be verified.
    own_builder: bool
    #: Where the code under verification lies.
    origin: Path
    #: Where the functions are that make the loss and, if the target has one of its own, the training step.
    loss_spec: str
    train_step_spec: str | None
    #: The configuration of training, or None where none is named and the target comes without.
    config: str | None
    #: Other classes of the same package that have a buffer and are not verified in this run.
    also_found: tuple[str, ...]

    @property
    def loss(self) -> Callable[..., Any]:
        """Makes the loss that the target is trained with. Imported when asked for: sam3's losses are slow to import."""
        return _callable(self.loss_spec, "--loss")

    @property
    def train_step(self) -> Callable[..., Any] | None:
        """The target's own training step, or None where it calls the wrapped model."""
        return _callable(self.train_step_spec, "--train-step") if self.train_step_spec else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _import(module: str, what: str, within: Path | None = None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if (Path(frame.filename).is_relative_to(within) if within else "importlib" not in frame.filename)
            and frame.filename != __file__
        ]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        if isinstance(error, SyntaxError) and error.filename:
            where = f" ({error.filename}, line {error.lineno})"
        raise TargetError(f"{what} does not import: {type(error).__name__}: {_one_line(error)}{where}") from error


def _symbol(spec: str, option: str) -> Any:
    module_name, _, name = spec.partition(":")
    if not SYMBOL.match(spec):
        raise TargetError(f"{option} {spec}: expected package.module:Name")
    module = _import(module_name, f"{option} {spec}: module {module_name}")
    try:
        return getattr(module, name)
    except AttributeError:
        raise TargetError(f"{option} {spec}: module {module_name} ({module.__file__}) has no {name}") from None


def checkout_folder(spec: str) -> Path:
    """Give the folder to import ``sam3`` from, for a target that is the path of a checkout."""
    path = Path(spec).expanduser().resolve()
    if not path.is_dir():
        raise TargetError(f"--target {spec}: no such folder")
    for folder in (path, path / "src"):
        if (folder / "sam3" / "__init__.py").is_file():
            return folder
    raise TargetError(f"--target {spec}: holds no package sam3 (looked for sam3/__init__.py there and under src/)")


def _use_checkout(folder: Path, spec: str) -> None:
    loaded = sys.modules.get("sam3")
    if loaded is not None and not Path(str(loaded.__file__)).is_relative_to(folder):
        raise TargetError(
            f"--target {spec}: sam3 is already imported from {Path(str(loaded.__file__)).parent}; "
            "verify one target a process"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _classes_with_a_buffer(package: Path) -> tuple[str, ...]:
    """Names of classes below ``package`` that define the buffer's method, read from source: nothing is imported."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if f"def {BUFFER_METHOD}" not in text:
            continue
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        current = None
        for line in text.splitlines():
            if match := re.match(r"class (\w+)", line):
                current = match.group(1)
            if line.strip().startswith(f"def {BUFFER_METHOD}") and current:
                found.append(f"{module}:{current}")
    return tuple(found)


def _callable(spec: str, option: str) -> Callable[..., Any]:
    found = _symbol(spec, option)
    if not callable(found):
        raise TargetError(f"{option} {spec}: is not callable")
    return found


def _detector(target: Target, within: Path | None) -> type[nn.Module] | None:
    spec = target.spec
    if spec in OURS:
        return _symbol(OURS[spec].detector, "--target")
    if spec == "sam3" or within:
        module, name = DETECTOR.split(":")
        what = f"--target {spec}: the checkout's sam3" if within else "sam3"
        return getattr(_import(module, what, within), name, None)
    if ":" not in spec:
        raise TargetError(
            f"--target {spec}: unknown target; name sam3, reference, posted, package.module:Class, or the path of a "
            "checkout (with a /)"
        )
    detector = _symbol(spec, "--target")
    if not (inspect.isclass(detector) and issubclass(detector, nn.Module)):
        raise TargetError(f"--target {spec}: is not a class of torch modules")
    return detector


@lru_cache(maxsize=8)
def load(target: Target) -> Loaded:
    """Import what a target names.

    Raises:
        TargetError: in one sentence, when something named is not there or does not import.
    """
    spec, within = target.spec, None
    if is_path(spec):
        within = checkout_folder(spec)
        _use_checkout(within, spec)
    elif importlib.util.find_spec("sam3") is None:
        raise TargetError("sam3 is not installed: pip install sam3==0.1.4, or name a checkout with --target PATH")
    detector = _detector(target, within)
    ours = OURS.get(spec)
    builder: Callable[..., nn.Module] | None = None
    if target.builder or ours:
        builder = _callable(target.builder or OURS[spec].builder, "--builder")
    elif spec == "sam3" or within:
        module, name = BUILDER.split(":")
        builder = getattr(_import(module, f"--target {spec}", within), name, None)
    own_builder = builder is not None
    if builder is None:
        if detector is None:
            raise TargetError(
                f"--target {spec}: has neither {DETECTOR} nor {BUILDER}; name its class or --builder instead"
            )
        builder = assemble(detector)
    loss = target.loss or (ours.loss if ours else LOSS)
    config = target.config or (ours.config if ours else None)
    if target.loader:
        _callable(target.loader, "--loader")
    origin = Path(inspect.getfile(builder if detector is None else detector))
    also: tuple[str, ...] = ()
    if spec == "sam3" or within:
        package = Path(str(sys.modules["sam3"].__file__)).parent
        also = tuple(name for name in _classes_with_a_buffer(package) if name != DETECTOR)
    return Loaded(detector, builder, own_builder, origin, loss, target.train_step, config, also)
