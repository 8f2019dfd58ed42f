"""What is edited: cosmic-ray's operators, and those of our own for what goes wrong in code of this kind.

Each of ours is a function: of a node of parso's tree, it gives the texts that may stand in its place, one a mutant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.operators.operator import Operator
from parso.python.tree import Name

#: A node or leaf of parso's, whose kinds have little in common.
Node = Any
Replacements = Callable[[Node], list[str]]
#: They ask for names that are to be exchanged; ``exchanged_names`` finds its own.
_WITH_ARGUMENTS = ("core/VariableReplacer", "core/VariableInserter")


class TextOperator(Operator):
    """An operator of cosmic-ray's that puts texts in a node's place."""

    def __init__(self, replacements: Replacements) -> None:
        self._replacements = replacements

    def mutation_positions(self, node: Node) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        for _ in self._replacements(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Node, index: int) -> Node:
        return Name(self._replacements(node)[index], node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


@dataclass(frozen=True)
class Named:
    """An operator under the name that mutants are called by."""

    name: str
    operator: Operator


def operators() -> tuple[Named, ...]:
    """All operators: cosmic-ray's, then ours."""
    theirs = [
        Named(name.partition("/")[2], cosmic_ray.plugins.get_operator(name)())
        for name in cosmic_ray.plugins.operator_names()
        if name not in _WITH_ARGUMENTS
    ]
    ours = (dropped_statement, dropped_call, exchanged_arguments, exchanged_names, detached_tensor, rounded_tensor)
    return (*theirs, *(Named(function.__name__, TextOperator(function)) for function in ours))


def _code(node: Node) -> str:
    return str(node.get_code(include_prefix=False))


def _function_of(node: Node) -> Any:
    """The outermost function that a node lies in: all of what is edited lies in one."""
    found = None
    while node is not None:
        if node.type == "funcdef":
            found = node
        node = node.parent
    return found


def _names(node: Node) -> Iterator[Any]:
    if node.type == "name":
        yield node
    for child in getattr(node, "children", ()):
        yield from _names(child)


def _defined_before(name: Node) -> bool:
    """Whether a function has a value under this name already, as an argument or by a statement before."""
    function = _function_of(name)
    return function is not None and any(
        other.value == name.value and other.is_definition() and other.start_pos < name.start_pos
        for other in _names(function)
    )


#: Statements that may be left out wherever they stand; others where something is left that has the name.
_DROPPED = ("atom_expr", "assert_stmt", "raise_stmt", "del_stmt")


def dropped_statement(node: Node) -> list[str]:
    """Leave out a statement: a call, an assertion, a change of what has a value already, an early return."""
    statement = node.parent
    if statement is None or statement.type != "simple_stmt" or node is not statement.children[0]:
        return []
    drops = node.type in _DROPPED
    if node.type == "expr_stmt":
        to = node.children[0]
        drops = to.type in ("atom_expr", "power") or (to.type == "name" and _defined_before(to))
    if node.type == "return_stmt":
        drops = statement.parent.parent.type != "funcdef"
    return ["pass"] if drops else []


def _arguments(trailer: Node) -> list[Any]:
    """The arguments of a call, given the trailer with its brackets."""
    inside = trailer.children[1:-1]
    if not inside:
        return []
    return list(inside[0].children[::2]) if inside[0].type == "arglist" else [inside[0]]


def _is_call(trailer: Node) -> bool:
    return trailer.type == "trailer" and trailer.children[0].value == "("


def dropped_call(node: Node) -> list[str]:
    """Leave out a call: ``x.f(y)`` becomes ``x``, and ``f(x, y)`` becomes ``x``, or ``y``."""
    if node.type != "atom_expr" or node.parent.type == "simple_stmt":
        return []
    texts = []
    children = node.children
    first = children[0]
    local = first.type != "name" or first.value == "self" or _defined_before(first)
    if first.type == "name" and _is_call(children[1]):
        given = [argument for argument in _arguments(children[1]) if argument.type != "argument"]
        rest = "".join(child.get_code() for child in children[2:])
        texts += [f"({_code(argument)}){rest}" for argument in given[:2]]
    for at in range(1, len(children) - 1):
        of_a_value = local and not (at == 1 and first.type == "name" and first.value == "self")
        if of_a_value and children[at].children[0].value == "." and _is_call(children[at + 1]):
            texts.append(_code(first) + "".join(child.get_code() for child in children[1:at] + children[at + 2 :]))
    return texts


def exchanged_arguments(node: Node) -> list[str]:
    """Exchange neighbours among the arguments of a call, or the values of two that are named."""
    if node.type != "arglist":
        return []
    texts = []
    for at in range(0, len(node.children) - 2, 2):
        one, other = node.children[at], node.children[at + 2]
        if one.type == other.type == "argument" and all(len(item.children) == 3 for item in (one, other)):
            one, other = one.children[2], other.children[2]
        elif "argument" in (one.type, other.type):
            continue
        if _code(one) != _code(other):
            texts.append(_with(node, {one: _code(other), other: _code(one)}))
    return texts


def _with(node: Node, texts: dict[Any, str]) -> str:
    """The code of a node with other texts in the place of nodes below it."""

    def written(part: Any, first: bool) -> str:
        prefix = "" if first else part.get_first_leaf().prefix
        if part in texts:
            return prefix + texts[part]
        if not hasattr(part, "children"):
            return prefix + part.value
        return "".join(written(child, first and number == 0) for number, child in enumerate(part.children))

    return written(node, True)


#: Parts of names, between underscores, that stand for one thing and for another of its kind.
_PARTS = (
    ("b", "e"),
    ("begin", "end"),
    ("start", "end"),
    ("start", "stop"),
    ("curr", "next"),
    ("curr", "prev"),
    ("prev", "next"),
    ("first", "last"),
    ("prob", "iou"),
    ("height", "width"),
    ("rank", "frame"),
    ("images", "frames"),
    ("stage", "frame"),
    ("inputs", "targets"),
)
#: Whole names of such things.
_WHOLE = (
    ("rank", "world_size"),
    ("frame_idx", "num_frames"),
    ("frame", "frames"),
    ("frame", "rank"),
    ("output", "target"),
    ("outputs", "targets"),
    ("fpn0", "fpn1"),
    ("fpn1", "fpn2"),
    ("fpn_handle0", "fpn_handle1"),
    ("fpn_handle1", "fpn_handle2"),
    ("probability", "iou"),
)


def exchanged_names(node: Node) -> list[str]:
    """Read another value of the same function: a chunk's end for its beginning, a rank for a frame."""
    function = _function_of(node) if node.type == "name" else None
    if function is None or node.is_definition():
        return []
    if node.parent.type == "argument" and node is node.parent.children[0]:
        return []  # the name of an argument, no value
    parts = node.value.split("_")
    others = []
    for one, other in (*_PARTS, *((b, a) for a, b in _PARTS)):
        others += ["_".join((*parts[:at], other, *parts[at + 1 :])) for at, part in enumerate(parts) if part == one]
    others += [other for one, other in (*_WHOLE, *((b, a) for a, b in _WHOLE)) if node.value == one]
    there = {name.value for name in _names(function)}
    return [name for name in dict.fromkeys(others) if name in there and name != node.value]


def _is_value_of_a_dictionary(node: Node) -> bool:
    siblings = node.parent.children
    at = siblings.index(node)
    return node.parent.type == "dictorsetmaker" and at > 0 and getattr(siblings[at - 1], "value", "") == ":"


#: Values that hold no tensor, whatever is in them.
_NO_TENSOR = ("number", "string", "strings", "keyword", "lambdef", "comparison", "not_test", "fstring")


def _may_be_a_tensor(node: Node) -> bool:
    """Whether a value is named, returned or put in a dictionary, and may hold a tensor."""
    parent = node.parent
    if parent is None or node.type in _NO_TENSOR or node.type == "operator":
        return False
    named = parent.type == "expr_stmt" and node is parent.children[-1] and parent.children[1].type == "operator"
    named = named and parent.children[1].value == "="
    with_type = parent.type == "annassign" and len(parent.children) == 4 and node is parent.children[3]
    returned = parent.type == "return_stmt" and node is parent.children[-1]
    return named or with_type or returned or _is_value_of_a_dictionary(node)


def detached_tensor(node: Node) -> list[str]:
    """Stop the gradients of the tensors in a value: ``x`` becomes ``x.detach()``."""
    return [f"mutant_detached(({_code(node)}))"] if _may_be_a_tensor(node) else []


def rounded_tensor(node: Node) -> list[str]:
    """Round the tensors in a value: ``x`` becomes ``x.bfloat16().to(x.dtype)``."""
    return [f"mutant_rounded(({_code(node)}))"] if _may_be_a_tensor(node) else []


#: Edits of tensors, which change nothing where none comes.
OF_TENSORS = ("detached_tensor", "rounded_tensor")
