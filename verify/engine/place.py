"""A line of code that a finding leads to: where the code lies that was looked at, or that is at fault."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file that is there."""

    #: Absolute.
    path: str
    #: From 1.
    line: int
    #: In words, what is there: mostly a function's qualified name.
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.what})"


def place_at(path: str, line: int | None, what: str) -> Place | None:
    """A line of a file; None where the file is not there, as that of generated code, or has no such line."""
    file = Path(path).absolute()
    if line is None or not linecache.getline(str(file), line):
        return None
    return Place(str(file), line, what)


def place_from_json(data: Mapping[str, Any] | None) -> Place | None:
    """Read what ``dataclasses.asdict`` made of a place, or of None."""
    return Place(**data) if data else None


def place_of(code: Any) -> Place | None:
    """The line on which the ``def`` or the ``class`` stands of a function, a method or a class.

    Decorators are looked behind. None for what is written in C or generated, or whose file is not there.
    """
    while isinstance(code, partial):
        code = code.func
    if inspect.isclass(code):
        return _of_class(code)
    inner = getattr(inspect.unwrap(code, stop=_is_itself), "__code__", None)
    if inner is None:
        return None
    line = _line_of(inner.co_name, inner.co_filename, inner.co_firstlineno)
    return place_at(inner.co_filename, line, inner.co_qualname)


def place_of_method(owner: type, name: str) -> Place | None:
    """Where a class's method is defined; the class itself where it has that from a class of another package."""
    definer = next((base for base in owner.__mro__ if name in vars(base)), owner)
    own = definer.__module__.partition(".")[0] == owner.__module__.partition(".")[0]
    return place_of(getattr(owner, name)) if own else place_of(owner)


def _is_itself(function: Any) -> bool:
    """Whether a function that says it wraps another was written under that name: an override, and no decorator's."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_name == getattr(function, "__name__", None)


def _of_class(code: type) -> Place | None:
    try:
        path, (_, first) = inspect.getfile(code), inspect.findsource(code)
    except (OSError, TypeError):
        return None
    return place_at(path, _line_of(code.__name__, path, first + 1), code.__qualname__)


def _line_of(name: str, path: str, first: int) -> int:
    """The line that defines what is called so and begins, with its decorators, on the ``first``."""
    for node in ast.walk(_tree("".join(linecache.getlines(str(Path(path).absolute()))))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name != name:
            continue
        if first == min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]):
            return node.lineno
    return first


@lru_cache(maxsize=8)
def _tree(source: str) -> ast.AST:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])
