"""What a buffer's entry is kept under beside its frame: the prompts and settings that it answers, by value.

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


def cache_key(
    backbone_out: Mapping[str, Any], find_input: Any, geometric_prompt: Any, settings: tuple[Any, ...]
) -> Any:
    """Name what a frame's detection depends on, beside the image: the prompts, the text ids, ``settings``.

    The result holds the tensors given, not copies, and is to be compared with ``equal_keys``.
    """
    text = tuple(backbone_out.get(key) for key in _TEXT)
    return _plain((geometric_prompt, text, getattr(find_input, "text_ids", None), settings))


def copied_key(key: Any) -> Any:
    """Copy a key, so that it stays what it was when the caller changes a prompt in place."""
    if isinstance(key, torch.Tensor):
        return key.detach().clone()
    return tuple(copied_key(part) for part in key) if isinstance(key, tuple) else key


def equal_keys(one: Any, other: Any) -> bool:
    """Tell whether two keys are equal, tensor by tensor and bit by bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return alike and torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(equal_keys(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)
