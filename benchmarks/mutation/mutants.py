"""All mutants of a function: texts of a module that differ from it by one edit."""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from benchmarks.mutation.operators import OF_TENSORS, Named


@dataclass(frozen=True)
class Mutant:
    """A module with one edit."""

    #: ``function:line:column:operator``, with a number where an operator makes several edits there.
    name: str
    module: str
    operator: str
    #: Of the module's own file.
    line: int
    #: First and last line of the statement that is edited; of a whole function where its head is.
    statement: tuple[int, int]
    #: The lines that the edit takes away and puts in their place.
    diff: str
    #: The whole module's text.
    text: str = field(repr=False)

    @property
    def edits_tensors(self) -> bool:
        return self.operator in OF_TENSORS


class NoSuchFunction(Exception):
    """A function is to be edited that the module does not have; the message names both."""


def _definition(tree: ast.Module, qualified: str) -> ast.FunctionDef:
    body: list[Any] = list(tree.body)
    found: Any = None
    for name in qualified.split("."):
        named = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name]
        if not named:
            raise NoSuchFunction(f"there is no {qualified}")
        found, body = named[-1], named[-1].body
    if not isinstance(found, ast.FunctionDef):
        raise NoSuchFunction(f"{qualified} is a class: name its methods")
    return found


def functions_in(text: str) -> tuple[str, ...]:
    """The qualified names of a module's functions and of its classes' methods, in their order."""
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef):
            names += [f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)]
    return tuple(names)


def _statement_at(definition: ast.FunctionDef, line: int) -> tuple[int, int]:
    """The lines of the innermost statement that has this one; of the function's body, where none in it has."""
    lines = (definition.body[0].lineno, definition.body[-1].end_lineno or line)
    for node in ast.walk(definition):  # outer ones before those in them
        if node is not definition and isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or line):
            lines = (node.lineno, node.end_lineno or line)
    return lines


def _ranges_of_annotations(tree: Any) -> list[tuple[Any, Any]]:
    """Where types are written: an edit of them changes nothing that runs."""
    ranges = []
    for node in ast_nodes(tree):
        if node.type in ("tfpdef", "annassign"):
            at = node.children.index(next(child for child in node.children if child.get_code().strip() == ":"))
            ranges.append((node.children[at + 1].start_pos, node.children[at + 1].end_pos))
        if node.type == "funcdef" and node.annotation is not None:
            ranges.append((node.annotation.start_pos, node.annotation.end_pos))
    return ranges


def _program(text: str) -> str:
    """What a text says, whatever its layout; the text itself where it is no program."""
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text


def _diff(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line[0] + " " + line[1:].strip() for line in list(lines)[2:] if line[0] in "+-")


def mutants(module: str, text: str, qualified: str, operators: Sequence[Named]) -> Iterator[Mutant]:
    """Make every edit of a function of ``module``, whose text is ``text``; none twice.

    Raises:
        NoSuchFunction: where the module has none under this name.
    """
    definition = _definition(ast.parse(text), qualified)
    first = min([definition.lineno, *(decorator.lineno for decorator in definition.decorator_list)])
    lines = text.splitlines(keepends=True)
    own = "".join(lines[first - 1 : definition.end_lineno])
    code = textwrap.dedent(own)
    indent = len(own) - len(own.lstrip()) - (len(code) - len(code.lstrip()))
    tree = get_ast(code)
    annotations = _ranges_of_annotations(tree)
    seen = {_program(code)}
    for named in operators:
        positions = [position for node in ast_nodes(tree) for position in named.operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(positions):
            if any(begin <= start and end <= stop for begin, stop in annotations):
                continue
            edited = mutate_code(code, named.operator, occurrence)
            program = _program(edited)
            if program in seen:
                continue
            seen.add(program)
            line, column = first + start[0] - 1, start[1] + indent
            number = positions[:occurrence].count((start, end))
            suffix = f":{number}" if positions.count((start, end)) > 1 else ""
            whole = "".join(
                (*lines[: first - 1], textwrap.indent(edited, " " * indent), *lines[definition.end_lineno :])
            )
            name = f"{qualified.rpartition('.')[2]}:{line}:{column}:{named.name}{suffix}"
            yield Mutant(name, module, named.name, line, _statement_at(definition, line), _diff(code, edited), whole)
