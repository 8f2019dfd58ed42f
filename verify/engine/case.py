"""How the cases of checks are written as JSON and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any


def changed_fields(case: Any, *always: str) -> dict[str, Any]:
    """Give the fields of a case that differ from their defaults, as JSON; those that ``always`` names anyway."""
    plain = asdict(case)
    return {
        field.name: plain[field.name]
        for field in fields(case)
        if field.name in always or getattr(case, field.name) != field.default
    }


def refuse_unknown_fields(kind: Any, data: Mapping[str, Any]) -> None:
    """Compare the names in ``data`` with the fields of a ``kind`` of case.

    Raises:
        ValueError: with a sentence that names what is unknown, and the fields.
    """
    known = sorted(field.name for field in fields(kind))
    if unknown := sorted(set(data) - set(known)):
        raise ValueError(f"unknown field {unknown[0]!r}; a case has {', '.join(known)}")
