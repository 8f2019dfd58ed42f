"""Bytecode for the processes that tests start, where they would compile torch and sam3 each time anew.

An installer may leave compiling to the first import, and ``PYTHONDONTWRITEBYTECODE`` forbid that to keep what it has
compiled: then each of thirty processes takes twenty seconds to import, in place of eight. They keep it in a folder of
their own, which goes with the session.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock


@contextmanager
def kept() -> Iterator[None]:
    """Let processes started meanwhile share the bytecode that they compile, where the installation has none."""
    if not (sys.dont_write_bytecode and _missing("torch")):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="bytecode-") as folder, mock.patch.dict(os.environ):
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield


def _missing(package: str) -> bool:
    found = importlib.util.find_spec(package)
    return found is not None and not (found.cached and Path(found.cached).is_file())
