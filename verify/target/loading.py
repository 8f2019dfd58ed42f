"""Importing what a target names: its class, its builder, its loss, its configuration."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fixtures.search_path import pin
from fixtures.toy.build import accepted, assemble, assemble_like
from verify.target.naming import BUILDER, DETECTOR, LOSS, OURS, SYMBOL, Target, TargetError, is_path


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

    @property
    def loss(self) -> Callable[..., Any]:
        """Makes the loss that the target is trained with. Imported when asked for: sam3's losses are slow to import."""
        return _callable(self.loss_spec, "--loss")

    def make_loss(self, **asked: Any) -> Any:
        """Make that loss as it is ``asked`` for, ``masks`` among it: as far as its maker leaves the choice."""
        return self.loss(**accepted(self.loss, asked))

    @property
    def train_step(self) -> Callable[..., Any] | None:
        """The target's own training step, or None where it calls the wrapped model."""
        return _callable(self.train_step_spec, "--train-step") if self.train_step_spec else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


#: Distributions whose name is not that of the module that they install.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pkg_resources": "'setuptools<82'",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


def _install(error: BaseException) -> str:
    """What to do about a module that is missing; "" for any other error."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not missing or missing in ("sam3", *sys.modules):
        return ""
    return f": install what the checkout needs: pip install {_DISTRIBUTIONS.get(missing, missing)}"


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
        raise TargetError(
            f"{what} does not import: {type(error).__name__}: {_one_line(error)}{where}{_install(error)}"
        ) from error


def _symbol(spec: str, option: str) -> Any:
    module_name, _, name = spec.partition(":")
    if not SYMBOL.match(spec):
        raise TargetError(f"{option} {spec}: expected package.module:Name")
    module = _import(module_name, f"{option} {spec}: module {module_name}")
    try:
        return getattr(module, name)
    except AttributeError:
        raise TargetError(f"{option} {spec}: module {module_name} ({module.__file__}) has no {name}") from None


def _of_package(spec: str, what: str, within: Path | None) -> Any:
    """What sam3 has as ``module:name``; None where the module imports and has no such name."""
    module, _, name = spec.partition(":")
    return getattr(_import(module, what, within), name, None)


def checkout_folder(spec: str, option: str) -> Path:
    """Give the folder to import ``sam3`` from, where ``option`` names the path of a checkout."""
    path = Path(spec).expanduser().resolve()
    if not path.is_dir():
        raise TargetError(f"{option} {spec}: no such folder")
    for folder in (path, path / "src"):
        if (folder / "sam3" / "__init__.py").is_file():
            return folder
    raise TargetError(f"{option} {spec}: holds no package sam3 (looked for sam3/__init__.py there and under src/)")


def _use_checkout(folder: Path, what: str) -> None:
    loaded = sys.modules.get("sam3")
    if loaded is not None and not Path(str(loaded.__file__)).is_relative_to(folder):
        raise TargetError(
            f"{what}: sam3 is already imported from {Path(str(loaded.__file__)).parent}; verify one target a process"
        )
    pin("sam3", folder)
    importlib.invalidate_caches()


def package_folder() -> Path:
    """Where the ``sam3`` that is imported lies."""
    return Path(str(sys.modules["sam3"].__file__)).parent


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
        return _of_package(DETECTOR, f"--target {spec}: the checkout's sam3" if within else "sam3", within)
    if ":" not in spec:
        raise TargetError(
            f"--target {spec}: unknown target; name sam3, reference, posted, package.module:Class, or the path of a "
            "checkout (with a /)"
        )
    detector = _symbol(spec, "--target")
    if not (inspect.isclass(detector) and issubclass(detector, nn.Module)):
        raise TargetError(f"--target {spec}: is not a class of torch modules")
    return detector


def _builder_that_calls(name: str) -> Callable[..., Any] | None:
    """The function of the package's ``model_builder`` that constructs a class of this name, read from its source."""
    parts = sys.modules["sam3.model_builder"]
    for node in ast.parse(inspect.getsource(parts)).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            called = {
                call.func.id
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            }
            if name in called:
                return getattr(parts, node.name, None)
    return None


def _package_builder(detector: type[nn.Module], what: str, within: Path | None) -> Callable[..., Any]:
    """What makes models of a class beside the package's main one: the package's own builder, or one around the class.

    A class that derives from the package's is constructed around the parts that the builder makes for that. The main
    detector, which sam3's builders make with weights of a whole tracker around it, is put together of its parts.
    """
    _import("sam3.model_builder", what, within)
    main = _of_package(DETECTOR, what, within)
    if main is not None and issubclass(detector, main):
        return assemble(detector)
    for base in detector.__mro__:
        if base.__module__.startswith("sam3.") and (builder := _builder_that_calls(base.__name__)) is not None:
            return builder if base is detector else assemble_like(builder, base, detector)
    return assemble(detector)


def locate(target: Target) -> Path | None:
    """Let the ``sam3`` of a target be found, here and in ranks; gives the folder where its spec is a checkout's path.

    Raises:
        TargetError: in one sentence, where there is none.
    """
    within = checkout_folder(target.spec, "--target") if is_path(target.spec) else None
    if within:
        _use_checkout(within, f"--target {target.spec}")
    elif target.sam3:
        _use_checkout(checkout_folder(target.sam3, "--sam3"), f"--sam3 {target.sam3}")
    elif importlib.util.find_spec("sam3") is None:
        raise TargetError("sam3 is not installed: pip install sam3==0.1.4, or name a checkout with --target PATH")
    return within


@lru_cache(maxsize=16)
def load(target: Target) -> Loaded:
    """Import what a target names.

    Raises:
        TargetError: in one sentence, when something named is not there or does not import.
    """
    spec, within = target.spec, locate(target)
    detector = _detector(target, within)
    ours = OURS.get(spec)
    builder: Callable[..., Any] | None = None
    if target.builder or ours:
        builder = _callable(target.builder or OURS[spec].builder, "--builder")
    elif spec == "sam3" or within:
        builder = _of_package(BUILDER, f"--target {spec}", within)
    own_builder = builder is not None
    subject = target.subject.rpartition(":")[0] if target.subject else None
    if subject is not None and detector is not None and subject != f"{detector.__module__}:{detector.__qualname__}":
        detector = _symbol(subject, "--subject")
        builder, own_builder = _package_builder(detector, f"--target {spec}", within), False
    if builder is None:
        if detector is None:
            raise TargetError(
                f"--target {spec}: has neither {DETECTOR} nor {BUILDER}; name its class or --builder instead"
            )
        builder = _package_builder(detector, f"--target {spec}", within)
    loss = target.loss or (ours.loss if ours else LOSS)
    config = target.config or (ours.config if ours else None)
    if target.loader:
        _callable(target.loader, "--loader")
    origin = Path(inspect.getfile(builder if detector is None else detector))
    return Loaded(detector, builder, own_builder, origin, loss, target.train_step, config)
