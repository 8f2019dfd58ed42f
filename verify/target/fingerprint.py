"""What a target is called, which sam3 it stands on, and whether its code is upstream's.

    python -m verify.target.fingerprint TARGET [METHOD …]

prints the fingerprints of a target's methods as a table for a file of known failures, a table for each subject.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from verify.target.loading import load, package_folder
from verify.target.naming import BUFFER_METHODS, Target
from verify.target.subjects import chosen, subjects_of

#: What of a subject is printed where no method is named.
METHODS = ("__init__", *BUFFER_METHODS.values())


def _version() -> str:
    """The version of the ``sam3`` that is imported: its distribution's where it is installed, else its own."""
    folder = package_folder()
    try:
        installed = metadata.distribution("sam3")
        if folder == Path(str(installed.locate_file("sam3"))).resolve():
            return installed.version
    except metadata.PackageNotFoundError:
        pass
    return str(getattr(sys.modules["sam3"], "__version__", "unknown"))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str | None:
    """The commit of a checkout, with a word on changes since; None where sam3 lies in no repository."""
    folder = package_folder()
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    if tracked is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit} with changes" if commit and changed else commit


def identity(target: Target) -> dict[str, Any]:
    """What a report says of a target: how it was named, where its code lies, and on which sam3 it stands."""
    return {
        "spec": target.spec,
        "title": target.title,
        "builder": target.builder,
        "origin": str(load(target).origin),
        "sam3": {"version": _version(), "commit": _commit(), "folder": str(package_folder())},
        "subjects": [subject.name for subject in subjects_of(target)],
    }


class _Bare(ast.NodeTransformer):
    """Takes away what a function does without: docstrings and annotations of types."""

    def visit(self, node: ast.AST) -> Any:
        node = self.generic_visit(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if not isinstance(node, ast.ClassDef):
                node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else ast.Pass()
        return node


def fingerprint(function: Any) -> str | None:
    """A hash of what a function does by its source; None without source.

    Comments, docstrings, annotations of types and layout do not count: forks that add them change nothing.
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = _Bare().visit(ast.parse(source))
    except (OSError, TypeError, SyntaxError):
        return None
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _function(target: Target, name: str) -> Any:
    """A method of the target's detector by its name, or any function by ``package.module:name``."""
    module, _, function = name.rpartition(":")
    if module:
        try:
            return getattr(importlib.import_module(module), function, None)
        except ImportError:
            return None
    return getattr(load(target).detector, name, None)


@lru_cache(maxsize=256)
def _fingerprint_of(target: Target, name: str) -> str | None:
    return fingerprint(_function(target, name))


def has_code(target: Target, methods: Mapping[str, str]) -> bool:
    """Whether each of the named methods of the target's detector has the fingerprint that goes with it."""
    return all(_fingerprint_of(target, name) == value for name, value in methods.items())


def changed_code(target: Target, methods: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the named methods have another fingerprint; none where all have, as in code that is not upstream's."""
    changed = tuple(name for name, value in methods.items() if _fingerprint_of(target, name) != value)
    return changed if len(changed) < len(methods) else ()


def _print_fingerprints(spec: str, names: tuple[str, ...]) -> None:
    for target in chosen(Target(spec), None):
        title = target.subject_name.partition(":")[0] or str(getattr(load(target).detector, "__name__", "builder"))
        found = {name: _fingerprint_of(target, name) for name in names}
        print(f"[code.{title}]")
        print("\n".join(f'"{name}" = "{value}"' for name, value in found.items() if value), end="\n\n")


if __name__ == "__main__":
    _print_fingerprints(sys.argv[1], tuple(sys.argv[2:]) or METHODS)
