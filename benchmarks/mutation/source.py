"""The text of a module, and putting another in its place in this process."""

from __future__ import annotations

import importlib
import linecache
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.mutation.tensors import IN_SCOPE


def text_of(module: str) -> str:
    """The text of a module's own file, as it is installed."""
    return Path(str(importlib.import_module(module).__file__)).read_text(encoding="utf-8")


def _defined_by(module: ModuleType) -> dict[int, str]:
    """The names of a module's own classes and functions, by the identity of what they name."""
    return {
        id(value): name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__qualname__")
    }


def put_in_place(module_name: str, text: str) -> None:
    """Run ``text`` as the module's, and let whoever has imported its classes and functions by name have the new ones.

    The file is as it was. Tracebacks and ``inspect`` read the new text. Raises whatever the text raises.
    """
    module = importlib.import_module(module_name)
    path = str(module.__file__)
    code = compile(text, path, "exec")
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    before = _defined_by(module)
    kept: list[Any] = [vars(module)[name] for name in before.values()]  # so that no identity is used again
    vars(module).update(IN_SCOPE)
    exec(code, vars(module))
    for other in list(sys.modules.values()):
        if other is module or not isinstance(other, ModuleType):
            continue
        for name, value in list(vars(other).items()):
            if id(value) in before:
                setattr(other, name, vars(module)[before[id(value)]])
    del kept
