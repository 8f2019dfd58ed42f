"""Parts of a model, as what concerns many parameters is reported by them."""

from __future__ import annotations


def part_of(parameter: str) -> str:
    """The part of the model that a parameter is reported under: two names deep."""
    return ".".join(parameter.split(".")[:-1][:2]) or parameter
