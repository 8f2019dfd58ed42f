"""Commands run in processes that are forked from one which has imported already what takes long to import.

    with fork_server("torch", "sam3.model_builder") as run:
        done = run("pytest", "verify", "--only", "test_coverage")

is ``python -m pytest verify --only test_coverage`` without the seconds that its imports take: the same arguments,
environment, search path and standard streams, ``__main__`` in its own right, and the interpreter's own end.

The process that forks has a single thread, for those of a library would not be there in a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from tests.commands import ROOT, SECONDS, Done, Run

#: Threads of a library would not be there in a fork; and at toy width they wait for each other longer than they work.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
#: How often the server looks whether a command has ended.
_POLL = 0.02
#: What a process that ran a command writes when Python is about to end it.
_AT_ITS_END = b"."


@dataclass(frozen=True)
class _Command:
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    #: Files for standard output and standard error.
    out: Path
    err: Path
    seconds: float


@dataclass(frozen=True)
class _End:
    #: The exit status as in ``Done``, or None where the time was up.
    status: int | None
    #: Whether the module came to its end, returning or raising.
    complete: bool


# What asks for commands


@contextmanager
def fork_server(*preload: str, seconds: float = SECONDS) -> Iterator[Run]:
    """Start a server that imports ``preload``; gives what runs a command, which may take so many ``seconds``."""
    ours, theirs = Pipe()
    main = "import tests.fork_server; tests.fork_server.main()"  # not -m: what is sent belongs to this module
    command = [sys.executable, "-c", main, str(theirs.fileno()), *preload]
    environment = {**os.environ, **_ONE_THREAD}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
    )
    theirs.close()

    def run(module: str, *arguments: str, **variables: str) -> Done:
        environment = {**os.environ, **variables}
        with tempfile.TemporaryDirectory(prefix="command-") as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            what = f"python -m {' '.join([module, *arguments])}"
            try:
                ours.send(_Command(module, arguments, environment, out, err, seconds))
                end: _End = ours.recv()
            except (EOFError, OSError):
                raise RuntimeError(f"the server that should run {what} is gone") from None
            said = f"\n{out.read_text()}\n{err.read_text()}"
            if end.status is None:
                raise TimeoutError(f"{what} took longer than {seconds} s{said}")
            if end.status >= 0 and not end.complete:
                raise RuntimeError(f"{what} was left with status {end.status} before its end{said}")
            return Done(end.status, out.read_text(), err.read_text())

    try:
        yield run
    finally:
        ours.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


# What runs them


def _serve(connection: Connection) -> tuple[_Command, int]:
    """Fork a process for each command until the other end closes.

    Returns in these processes only: what to run, and a file descriptor to write to at the end of it.
    """
    while True:
        try:
            command: _Command = connection.recv()
        except EOFError:
            os._exit(0)  # Python would take a second to take down what was imported
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            connection.close()
            return command, writing
        os.close(writing)
        status = _await(process, command.seconds, connection)
        os.set_blocking(reading, False)
        with open(reading, "rb", buffering=0) as ended:
            complete = ended.read(1) == _AT_ITS_END
        with contextlib.suppress(OSError):  # nobody waits for it any more
            connection.send(_End(status, complete))


def _await(process: int, seconds: float, connection: Connection) -> int | None:
    """Wait for the end of a process; gives None where the time was up or nobody wants to know any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if connection.poll(_POLL):  # commands come one at a time: this is the end of the connection
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # and what it has started
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)  # where it has not come to be a group
    os.waitpid(process, 0)
    return None


def _search_path() -> list[str]:
    """Where modules are looked for because the environment says so."""
    return [path for path in dict.fromkeys(os.environ.get("PYTHONPATH", "").split(os.pathsep)) if path]


def _become(command: _Command) -> None:
    """Make this process what ``python -m`` would start."""
    os.setpgid(0, 0)
    for path, flags, stream in (
        (Path(os.devnull), os.O_RDONLY, 0),
        (command.out, os.O_WRONLY | os.O_CREAT, 1),
        (command.err, os.O_WRONLY | os.O_CREAT, 2),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    inherited = {*_search_path()}
    os.environ.clear()
    os.environ.update(command.environment)
    sys.path[:] = [os.getcwd(), *_search_path(), *(path for path in sys.path[1:] if path not in inherited)]
    sys.argv[1:] = command.arguments


def main() -> None:
    """Be the server; in the processes that it forks, what was asked for."""
    connection = Connection(int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    threads = Path("/proc/self/task")
    assert threading.active_count() == 1
    assert not threads.exists() or len(list(threads.iterdir())) == 1, "a library has started threads"
    gc.collect()
    gc.freeze()  # what is here stays, and no fork has to look through it
    command, end = _serve(connection)
    _become(command)
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    finally:
        os.write(end, _AT_ITS_END)
        os.close(end)
