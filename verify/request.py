"""What a command line asks for: a target, checks of it, known failures, and how thoroughly all of that is run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.engine import options as engine_options
from verify.engine.check import Check
from verify.engine.known import Known, KnownError, KnownFile, read
from verify.engine.options import Options, UsageError
from verify.groups import registered, select
from verify.target import options as target_options
from verify.target.fingerprint import release
from verify.target.loading import load
from verify.target.naming import Target, TargetError

#: A file of known failures for each release of sam3.
KNOWN = Path(__file__).parent / "known"


def add_options(parser: Any) -> None:
    """Declare the gate's options in a pytest parser."""
    target_options.add_options(parser)
    engine_options.add_options(parser)


def known_of_release(released: tuple[str, str] | None, checks: Mapping[str, Check]) -> KnownFile | None:
    """The file that is kept for a release of sam3, (version, hash), or None: a changed file is not the release."""
    if released is None:
        return None
    path = KNOWN / f"sam3-{released[0]}.toml"
    if not path.is_file():
        return None
    file = read(path, checks)
    return file if (file.version, file.sha256) == released else None


def _known(text: str | None, target: Target, checks: Mapping[str, Check]) -> tuple[tuple[Known, ...], Path | None]:
    if text == "none":
        return (), None
    file = known_of_release(release(target), registered()) if text is None else read(Path(text), registered())
    if file is None:
        return (), None
    return tuple(entry for entry in file.entries if entry.check in checks), file.path


def _assert_data_path(target: Target) -> None:
    # Imports sam3, which may be a checkout's, and its trainer.
    from verify.configuration.configured import why_no_data_path

    if reason := why_no_data_path(target):
        raise ValueError(reason)


def read_options(given: argparse.Namespace, job: int | None) -> Options[Target]:
    """Read pytest's parsed options; ``job`` is torchrun's world size.

    Raises:
        UsageError: in one sentence, for anything that cannot be run as asked.
    """
    target = target_options.read_target(given)
    try:
        loaded = load(target)  # first: the modules of checks import sam3, which may be a checkout's
        for named in (given.loss and loaded.loss, given.train_step and loaded.train_step):
            assert named is None or callable(named)
        checks = select(given.only)
        if given.config or given.loader:
            _assert_data_path(target)
        known, known_from = _known(given.known, target, checks)
    except (TargetError, KnownError, ValueError) as error:
        raise UsageError(str(error)) from None
    return engine_options.read_options(given, job, target, checks, known, known_from)
