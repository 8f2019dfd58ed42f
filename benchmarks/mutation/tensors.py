"""What edits of tensors do: a mutant's text calls these by the names in ``IN_SCOPE``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: How many tensors have been changed in this process: an edit that meets none changes nothing.
met = 0


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Any:
    """A value with its tensors changed, those in dictionaries, lists and tuples too; the value itself without any."""
    global met
    if isinstance(value, torch.Tensor):
        changed = change(value)
        if changed is None:
            return value
        met += 1
        return changed
    if type(value) is dict:
        items = {key: _each(item, change) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in value) else value
    if type(value) in (list, tuple):
        made = [_each(item, change) for item in value]
        return type(value)(made) if any(one is not other for one, other in zip(made, value, strict=True)) else value
    return value


def detached(value: Any) -> Any:
    """The value, with tensors that carry no gradient any more."""
    return _each(value, lambda tensor: tensor.detach() if tensor.requires_grad else None)


def rounded(value: Any) -> Any:
    """The value, with float tensors rounded to bfloat16, in their own precision."""
    wide = (torch.float32, torch.float64)
    return _each(value, lambda tensor: tensor.bfloat16().to(tensor.dtype) if tensor.dtype in wide else None)


#: By what name a mutant's module has them.
IN_SCOPE = {"mutant_detached": detached, "mutant_rounded": rounded}
