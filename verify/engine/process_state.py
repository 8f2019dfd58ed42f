"""What of this process a target could take from the gate while it runs: seen after each case, and put back."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

_STREAMS = ("stdout", "stderr")
_DESCRIPTORS = (1, 2)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
#: Packages without whose modules nothing goes on.
_NEEDED = ("builtins", "sys", "os", "torch", "hypothesis", "fixtures", "verify")


class _Shielded:
    """A standard stream that can be used as it is, but not closed."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.was_closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def close(self) -> None:
        self.was_closed = True


class ProcessState:
    """The process as it is when this is entered: streams, file descriptors, modules, handlers of signals, threads."""

    def __enter__(self) -> ProcessState:
        self._modules, self._by_name = sys.modules, dict(sys.modules)
        self._streams = {name: _Shielded(getattr(sys, name)) for name in _STREAMS}
        self._descriptors = {}
        for descriptor in _DESCRIPTORS:
            with contextlib.suppress(OSError):  # a process may be started without
                self._descriptors[descriptor] = os.dup(descriptor)
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._threads = set(threading.enumerate())
        self._shield()
        return self

    def __exit__(self, *_: object) -> None:
        for name, shielded in self._streams.items():
            if getattr(sys, name) is shielded:
                setattr(sys, name, shielded.stream)
        for copy in self._descriptors.values():
            with contextlib.suppress(OSError):
                os.close(copy)

    def _shield(self) -> None:
        for name, shielded in self._streams.items():
            setattr(sys, name, shielded)

    def mend(self) -> str:
        """Put back what has been taken, and say what that was; "" where nothing was."""
        taken = self._mend_modules()
        for descriptor, copy in self._descriptors.items():
            try:
                os.fstat(descriptor)
            except OSError:
                taken.append(f"closed file descriptor {descriptor}, a standard stream of the process")
                with contextlib.suppress(OSError):
                    os.dup2(copy, descriptor)
        for name, shielded in self._streams.items():
            if shielded.was_closed:
                taken.append(f"closed sys.{name}")
                shielded.was_closed = False
        self._shield()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is not handler:
                taken.append(f"replaced the handler of {number.name}")
                with contextlib.suppress(ValueError, TypeError):  # not in the main thread, or not Python's
                    signal.signal(number, handler)
        return f"the target {' and '.join(taken)}, which belongs to the whole process" if taken else ""

    def _mend_modules(self) -> list[str]:
        if sys.modules is self._modules and len(self._modules) >= len(self._by_name):
            return []
        replaced, sys.modules = sys.modules is not self._modules, self._modules
        lost = [name for name in self._by_name if name not in self._modules]
        if not replaced and not any(name.partition(".")[0] in _NEEDED for name in lost):
            return []
        self._modules.update({name: self._by_name[name] for name in lost})
        return ["replaced sys.modules" if replaced else f"took {len(lost)} modules from sys.modules"]

    def new_threads(self) -> list[str]:
        """The names of threads, begun since, that keep the process from ending as long as they run."""
        running = [thread for thread in threading.enumerate() if not thread.daemon and thread not in self._threads]
        self._threads.update(running)
        return [thread.name for thread in running]
