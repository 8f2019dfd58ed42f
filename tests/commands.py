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


def run(module: str, *arguments: str, **variables: str) -> Done:
    """Run ``python -m`` with a module."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def torchrun(world_size: int, *arguments: str, **variables: str) -> Done:
    """Run ``torchrun``; the arguments begin with what each rank runs: a script, or ``-m`` and a module."""
    launch = ("--nproc-per-node", str(world_size), "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    return run("torch.distributed.run", *launch, *arguments, **variables)
