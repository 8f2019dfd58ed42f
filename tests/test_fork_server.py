"""Commands in forks run as ``python -m`` runs them, and nothing that can happen to one is taken for success."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import commands
from tests.commands import Run
from tests.fork_server import fork_server

pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with fork_server("json", seconds=3.0) as run:
        yield run


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    """The file of a module ``told``, which a command finds by its search path."""
    return tmp_path / "told.py"


SAYS = """
import atexit, os, sys
atexit.register(print, "the end")
print(__name__, __spec__.name, sys.argv, os.environ["COLOUR"], os.getcwd(), sys.path, repr(sys.stdin.read()))
sys.exit({end})
"""


@pytest.mark.parametrize(("end", "status"), [("", 0), ("4", 4), ("'lost'", 1)])
def test_a_command_runs_as_in_a_process_of_its_own(end: str, status: int, module: Path, run: Run) -> None:
    module.write_text(SAYS.format(end=end))
    variables = {"COLOUR": "red", "PYTHONPATH": str(module.parent)}
    done = run("told", "--one", "two words", **variables)
    assert done.status == status
    assert done.out.startswith("__main__ told ")
    assert done.out.endswith("the end\n")
    assert done == commands.run("told", "--one", "two words", **variables)


def test_commands_leave_nothing_to_those_after_them(module: Path, run: Run) -> None:
    module.write_text("import json, os\nprint(hasattr(json, 'left'), 'LEFT' in os.environ)\njson.left = 1\n")
    for variables in ({"LEFT": "1"}, {}):
        done = run("told", PYTHONPATH=str(module.parent), **variables)
        assert done.out == f"False {bool(variables)}\n"


def test_an_exception_ends_in_a_traceback_and_a_status(module: Path, run: Run) -> None:
    module.write_text("raise LookupError('here')\n")
    done = run("told", PYTHONPATH=str(module.parent))
    assert done.status == 1
    assert done.err.endswith("LookupError: here\n")


def test_a_signal_is_told_by_the_status(module: Path, run: Run) -> None:
    module.write_text("import os\nprint('before', flush=True)\nos.kill(os.getpid(), 9)\n")
    done = run("told", PYTHONPATH=str(module.parent))
    assert (done.status, done.out) == (-signal.SIGKILL, "before\n")


def test_a_command_that_leaves_before_its_end_is_no_success(module: Path, run: Run) -> None:
    module.write_text("import os\nprint('half', flush=True)\nos._exit(0)\n")
    with pytest.raises(RuntimeError, match=r"python -m told was left with status 0 before its end\nhalf"):
        run("told", PYTHONPATH=str(module.parent))


def test_a_command_that_hangs_is_ended_with_what_it_has_started(module: Path, run: Run) -> None:
    module.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"python -m told took longer than 3.0 s\n\d+") as caught:
        run("told", PYTHONPATH=str(module.parent))
    assert time.monotonic() - start < 10
    child = int(str(caught.value).split()[-1])
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and "State:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)
    module.write_text("print('another')\n")
    assert run("told", PYTHONPATH=str(module.parent)).out == "another\n"


def test_a_server_that_is_gone_is_told(module: Path) -> None:
    module.write_text("import os\nos.kill(os.getppid(), 9)\n")
    with fork_server() as run, pytest.raises(RuntimeError, match="the server that should run python -m told is gone"):
        run("told", PYTHONPATH=str(module.parent))
