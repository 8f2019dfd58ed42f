"""What a loss holds fixed by intent, held fixed in its differences, too: matching, and gradients stopped on purpose.

Autograd's gradient is the derivative of the loss with some values taken as constants: which query was matched to which
object, the boxes that a decoder's layer starts from, the targets and weights that a loss makes of predictions. They
move with the parameters all the same. So a first run records them, and later ones get what was recorded.

Any other place where a gradient is stopped is not held: what passes through it makes the loss move without a gradient.
Such places are noted where a tensor is detached, as they may be the cause of what is found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

#: Functions that give a tensor's values without its gradient.
_STOPS = (torch.Tensor.detach, torch.Tensor.data.__get__)  # type: ignore[attr-defined]
_TORCH = f"{os.sep}torch{os.sep}"
#: Where sam3 stops gradients on purpose, by the function's qualified name and the last dimension of what is stopped.
INTENDED = {
    # Each layer refines the boxes of the one before, taken as given.
    ("TransformerDecoder.forward", 4),
    # Scores are weighted by whether the object is there at all; that is learnt from a loss of its own.
    ("Sam3Image._update_scores_and_boxes", 1),
}


@dataclass(frozen=True, order=True)
class Stop:
    """A line of code, not torch's and not among the intended, that lets a value through without its gradient."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, in {self.function}"


@dataclass
class Held:
    """What was recorded in a first run, in the order in which it was asked for."""

    values: list[torch.Tensor] = field(default_factory=list)
    matched: list[Any] = field(default_factory=list)
    stops: set[Stop] = field(default_factory=set)


class Diverged(Exception):
    """A run took another way than the first: what was held fixed there cannot be put in its place."""


def _caller() -> FrameType | None:
    """The innermost frame that is neither torch's nor this module's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and (_TORCH in frame.f_code.co_filename or frame.f_code.co_filename in _OWN):
        frame = frame.f_back
    return frame


def _is_intended(frame: FrameType, last_dimension: int) -> bool:
    """Whether a function is one of the intended, or a method of that name of a class made of its class."""
    name, owner = frame.f_code.co_name, frame.f_locals.get("self")
    names = {f"{base.__name__}.{name}" for base in type(owner).__mro__}
    return any((qualified, last_dimension) in INTENDED for qualified in names)


class _Holding(TorchFunctionMode):
    def __init__(self, held: Held, recorded: bool) -> None:
        super().__init__()
        self.held, self.recorded, self.next = held, recorded, 0
        self.in_loss = False

    def hold(self, value: torch.Tensor) -> torch.Tensor:
        """Give the first run's value in place of this run's."""
        if not self.recorded:
            self.held.values.append(value.detach().clone())
            return value.detach()
        if self.next >= len(self.held.values) or self.held.values[self.next].shape != value.shape:
            raise Diverged
        self.next += 1
        return self.held.values[self.next - 1].clone()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _STOPS and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            args = (self._stopped(args[0]), *args[1:])
        elif self.in_loss and not torch.is_grad_enabled():
            args, kwargs = tree_map(self._without_gradient, (args, kwargs))
        return func(*args, **kwargs)

    def _stopped(self, value: torch.Tensor) -> torch.Tensor:
        if self.in_loss:
            return self.hold(value)
        frame = _caller()
        if frame is not None and value.ndim and _is_intended(frame, value.shape[-1]):
            return self.hold(value)
        if frame is not None and value.requires_grad and not self.recorded:
            self.held.stops.add(Stop(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname))
        return value

    def _without_gradient(self, value: Any) -> Any:
        """Hold what still has a gradient where none is computed: all that is computed of it is held, then."""
        return self.hold(value) if isinstance(value, torch.Tensor) and value.requires_grad else value


_OWN = (__file__,)


@dataclass(frozen=True)
class Holding:
    """A run in which values are recorded, or put in place of this run's."""

    mode: _Holding

    @contextmanager
    def loss(self) -> Iterator[None]:
        """Hold whatever the loss takes out of the graph: it says itself what is learnt of what."""
        self.mode.in_loss = True
        try:
            yield
        finally:
            self.mode.in_loss = False


def _matchers(*modules: Any) -> Iterator[nn.Module]:
    for root in modules:
        if isinstance(root, nn.Module):
            yield from (module for module in root.modules() if "Matcher" in type(module).__name__)


@contextmanager
def holding(held: Held, recorded: bool, *modules: Any) -> Iterator[Holding]:
    """Record into ``held`` what a run takes as given, or let the run take what was ``recorded`` there.

    Args:
        modules: where matchers are looked for: modules of classes that are called so.

    Raises:
        Diverged: when a run asks for more than was recorded, or for other shapes.
    """
    mode, calls = _Holding(held, recorded), [0]

    def matched(module: nn.Module, inputs: Any, output: Any) -> Any:
        if not recorded:
            held.matched.append(output)
            return None
        if calls[0] >= len(held.matched):
            raise Diverged
        calls[0] += 1
        return held.matched[calls[0] - 1]

    with ExitStack() as stack:
        for matcher in dict.fromkeys(_matchers(*modules)):
            stack.callback(matcher.register_forward_hook(matched).remove)
        stack.enter_context(mode)
        yield Holding(mode)
