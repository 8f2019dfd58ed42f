"""What a detection was asked, by value: whether an answer in the buffer answers the call at hand.

By value and never by identity: a caller may hand over the same object or an equal one, or change one in place, and
all ranks come to the same decision as long as they are given the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

#: What the detector reads of the text encoder's result.
_TEXT = ("language_features", "language_mask")


def _plain(value: Any) -> Any:
    """Take a value apart into nested tuples of tensors and plain values; sam3's ``Prompt`` by its fields."""
    if isinstance(value, Mapping):
        return tuple((key, _plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, str)):
        return value
    return (type(value).__qualname__, _plain(getattr(value, "__dict__", {})))


def asked(backbone_out: Mapping[str, Any], find_input: Any, geometric_prompt: Any, settings: tuple[Any, ...]) -> Any:
    """Name what a frame's detection depends on, beside the image: the prompts, the text ids, ``settings``.

    The result holds the tensors given, not copies, and is to be compared with ``same``.
    """
    text = tuple(backbone_out.get(key) for key in _TEXT)
    return _plain((geometric_prompt, text, getattr(find_input, "text_ids", None), settings))


def remembered(question: Any) -> Any:
    """Copy a question, so that it stays what it was when the caller changes a prompt in place."""
    if isinstance(question, torch.Tensor):
        return question.detach().clone()
    return tuple(remembered(part) for part in question) if isinstance(question, tuple) else question


def same(one: Any, other: Any) -> bool:
    """Tell whether two questions are equal, tensor by tensor and bit by bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return alike and torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)
