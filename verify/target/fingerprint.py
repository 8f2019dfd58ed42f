"""What a target is called, where it lies, and which release of sam3 it is."""

from __future__ import annotations

import hashlib
from importlib import metadata

from verify.target.loading import load
from verify.target.naming import Target


def identity(target: Target) -> dict[str, str | None]:
    """What a report says of a target: how it was named, and where its code lies."""
    return {"spec": target.spec, "builder": target.builder, "origin": str(load(target).origin)}


def release(target: Target) -> tuple[str, str] | None:
    """Tell which release the target is, byte for byte: (version, hash of its detector's file), where it is one.

    Only ``sam3`` itself can be a release: its file must be what the installed distribution recorded of it.
    """
    if target.spec != "sam3" or target.builder:
        return None
    try:
        version = metadata.version("sam3")
    except metadata.PackageNotFoundError:
        return None
    return version, hashlib.sha256(load(target).origin.read_bytes()).hexdigest()
