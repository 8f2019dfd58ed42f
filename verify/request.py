"""What a command line asks for: a target, checks of it, known failures, and how thoroughly all of that is run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from verify.engine import options as engine_options
from verify.engine.check import Check
from verify.engine.known import Known, KnownError, KnownFile, read
from verify.engine.options import Options, UsageError
from verify.groups import registered, select
from verify.target import options as target_options
from verify.target.fingerprint import changed_code, has_code
from verify.target.loading import load, locate
from verify.target.naming import Target, TargetError
from verify.target.subjects import chosen, speaks_of

#: A file of known failures for each release of sam3.
KNOWN = Path(__file__).parent / "known"


def add_options(parser: Any, other_html: bool = False) -> None:
    """Declare the gate's options in a pytest parser; ``other_html``: whether another plugin has declared --html."""
    target_options.add_options(parser)
    engine_options.add_options(parser, other_html)


@cache
def upstream_failures() -> tuple[KnownFile, ...]:
    """The files of known failures that are kept for upstream's releases."""
    return tuple(read(path, registered()) for path in sorted(KNOWN.glob("*.toml")))


def known_failures(target: Target, own: Sequence[Known]) -> tuple[Known, ...]:
    """The failures of a target, or of one subject of it, that are known: its ``own``, and those that it inherits.

    It inherits what upstream's code does that it has not changed; an entry of its own on the same check goes before.
    """
    entries = [
        entry if has_code(target, entry.methods) else replace(entry, release="")
        for entry in own
        if speaks_of(target, entry.subject)
    ]
    listed = {entry.check for entry in entries}
    for file in upstream_failures():
        for entry in file.entries:
            unlisted = entry.check not in listed and entry.methods and speaks_of(target, entry.subject)
            if unlisted and has_code(target, entry.methods):
                entries.append(entry)
        listed |= {entry.check for entry in entries}
    return tuple(entries)


def changed_failures(target: Target) -> tuple[Known, ...]:
    """Upstream's failures that a target, or one subject of it, would inherit, had it not changed the methods named."""
    changed = [
        replace(entry, methods={name: entry.methods[name] for name in changed_code(target, entry.methods)})
        for file in upstream_failures()
        for entry in file.entries
        if speaks_of(target, entry.subject)
    ]
    return tuple(entry for entry in changed if entry.methods)


def _own(text: str | None, checks: Mapping[str, Check]) -> tuple[tuple[Known, ...], Path | None]:
    if text is None or text == "none":
        return (), None
    file = read(Path(text), registered())
    return tuple(entry for entry in file.entries if entry.check in checks), file.path


def _assert_data_path(target: Target) -> None:
    # Imports sam3, which may be a checkout's, and its trainer.
    from verify.configuration.reading import why_not_readable

    if reason := why_not_readable(target):
        raise ValueError(reason)


def located_target(given: argparse.Namespace) -> Target:
    """The target that pytest's parsed options name, not yet imported, whose ``sam3`` is found from now on.

    Raises:
        UsageError: in one sentence, where there is none.
    """
    target = target_options.read_target(given)
    try:
        locate(target)
    except TargetError as error:
        raise UsageError(str(error)) from None
    return target


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
        required = () if given.require is None else tuple(select(given.require, "--require"))
        if given.config or given.loader:
            _assert_data_path(target)
        known, known_from = _own(given.known, checks)
        subjects = chosen(target, given.subject)
    except (TargetError, KnownError, ValueError) as error:
        raise UsageError(str(error)) from None
    return engine_options.read_options(given, job, target, checks, known, known_from, subjects, required)
