"""What of a target has a buffer: pairs of a class and a method in it, each judged by every check of the buffer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from verify.target.loading import load, package_folder
from verify.target.naming import BUFFER_METHODS, CHUNKED, Target, TargetError, stands_for_a_package


@dataclass(frozen=True)
class Subject:
    """A class and a buffer in it."""

    #: ``package.module:Class``.
    detector: str
    #: A key of ``BUFFER_METHODS``.
    kind: str

    @property
    def name(self) -> str:
        return f"{self.detector.rpartition(':')[2]}:{self.kind}"

    def answers_to(self, name: str) -> bool:
        """Whether ``--subject`` may call it so: by its whole name, its class, or the kind of its buffer."""
        return name in (self.name, *self.name.split(":"))


def _classes(package: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Classes below ``package`` that define a buffer, with its kinds; read from source, so nothing is imported."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not any(f"def {method}" in text for method in BUFFER_METHODS.values()):
            continue
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue  # nobody can import it
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                kinds = tuple(kind for kind, method in BUFFER_METHODS.items() if method in methods)
                if kinds:
                    yield f"{module}:{node.name}", kinds


@lru_cache(maxsize=8)
def subjects_of(target: Target) -> tuple[Subject, ...]:
    """All subjects of a target, that of its main class first; none where nothing in it has a buffer.

    Raises:
        TargetError: where the target cannot be loaded.
    """
    main = load(replace(target, subject=None)).detector
    found: list[Subject] = []
    if main is not None:
        name = f"{main.__module__}:{main.__qualname__}"
        found = [Subject(name, kind) for kind, method in BUFFER_METHODS.items() if hasattr(main, method)]
    if stands_for_a_package(target):
        others = [Subject(name, kind) for name, kinds in _classes(package_folder()) for kind in kinds]
        found += [subject for subject in others if subject not in found]
    return tuple(found)


def chosen(target: Target, name: str | None) -> tuple[Target, ...]:
    """The target, once for each of its subjects that ``--subject`` names; all of them for None.

    A target with one subject, or none, is given as it is.

    Raises:
        TargetError: where ``name`` names none.
    """
    subjects = subjects_of(target)
    picked = [subject for subject in subjects if name is None or subject.answers_to(name)]
    if name is not None and not picked:
        names = ", ".join(subject.name for subject in subjects) or "none"
        raise TargetError(f"--subject {name}: not one of the target's: {names}")
    if len(subjects) <= 1:
        return (target,)
    return tuple(replace(target, subject=f"{subject.detector}:{subject.kind}") for subject in picked)


def speaks_of(target: Target, name: str) -> bool:
    """Whether ``name``, of a subject, is one for what of the target is looked at; "" is for anything."""
    if not name:
        return True
    if target.subject is not None:
        return Subject(*target.subject.rsplit(":", 1)).answers_to(name)
    return any(subject.answers_to(name) for subject in subjects_of(target))


def kind_of(target: Target) -> str:
    """Which kind of buffer is looked at: a key of ``BUFFER_METHODS``; the first that there is, where none is named."""
    if target.subject is not None:
        return target.subject.rpartition(":")[2]
    subjects = subjects_of(target)
    return subjects[0].kind if subjects else CHUNKED
