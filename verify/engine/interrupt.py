"""Tells an interrupt of the user's from a KeyboardInterrupt that code raises of itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

_pressed = False
_told: list[Callable[[], None]] = []


def _note(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed = True
    for tell in _told:
        tell()
    signal.default_int_handler(number, frame)


def listen(tell: Callable[[], None]) -> None:
    """Notice interrupts from now on, and ``tell`` of them, unless somebody else handles them."""
    _told[:] = [tell]
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def by_the_user(error: BaseException) -> bool:
    """Whether an exception stands for an interrupt that has arrived as a signal, as the user's do."""
    return isinstance(error, KeyboardInterrupt) and _pressed
