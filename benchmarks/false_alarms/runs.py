"""Where the gate is run: in new processes, or in forks of such as have imported what it imports."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from tests import commands
from tests.conftest import IMPORTED
from tests.fork_server import fork_server

#: The longest that a run of the gate may take: a run that hangs is an alarm.
SECONDS = 1800.0


@contextmanager
def running(forked: int) -> Iterator[commands.Run]:
    """Give what runs a command: in a new process, or where ``forked``, in forks of so many servers.

    Of these so many threads may ask at once.
    """
    if not forked:
        yield partial(commands.run_within, SECONDS)
        return
    with ExitStack() as stack:
        idle: queue.Queue[commands.Run] = queue.Queue()
        for _ in range(forked):
            idle.put(stack.enter_context(fork_server(*IMPORTED, seconds=SECONDS)))

        def run(module: str, *arguments: str, **variables: str) -> commands.Done:
            server = idle.get()
            try:
                return server(module, *arguments, **variables)
            finally:
                idle.put(server)

        yield run
