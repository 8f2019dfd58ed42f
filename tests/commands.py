"""Commands of Python's, run as ``python -m`` in processes of their own, and how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]
#: No command may take longer; less than a test may.
SECONDS = 280.0


@dataclass(frozen=True)
class Done:
    #: The exit status; where a signal has ended the process, its number, negative.
    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong with the command."""
        return [line for line in self.err.splitlines() if line.lower().startswith("error: ")]


class Run(Protocol):
    """Runs a module with arguments and further environment variables, from the root of the repository."""

    def __call__(self, module: str, *arguments: str, **variables: str) -> Done: ...


def run_within(seconds: float, module: str, *arguments: str, **variables: str) -> Done:
    """Run ``python -m`` with a module; raises ``TimeoutError`` where it takes longer."""
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **variables}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"python -m {module} took longer than {seconds} s") from None
    return Done(done.returncode, done.stdout, done.stderr)


def run(module: str, *arguments: str, **variables: str) -> Done:
    """Run ``python -m`` with a module."""
    return run_within(SECONDS, module, *arguments, **variables)


def torchrun(world_size: int, *arguments: str, **variables: str) -> Done:
    """Run ``torchrun``; the arguments begin with what each rank runs: a script, or ``-m`` and a module."""
    launch = ("--nproc-per-node", str(world_size), "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    return run("torch.distributed.run", *launch, *arguments, **variables)
