"""The launchers of ranks that a verification uses, each made when it is first needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from fixtures.ranks import Processes, Ranks, Threads, Torchrun
from fixtures.ranks.processes.launcher import PRELOAD
from verify.engine.check import PROCESSES, THREADS

#: World sizes of cases on threads.
THREAD_WORLD_SIZES = (1, 2, 3, 4, 5, 6, 7, 8)
#: World sizes of cases on processes, where torchrun has not set one.
PROCESS_WORLD_SIZES = (2, 4)


@dataclass
class Launchers:
    """The groups of ranks of a session, each made when it is first needed."""

    backend: str = "gloo"
    job: Torchrun | None = None
    #: Modules that the server of processes imports before it forks ranks.
    preload: tuple[str, ...] = PRELOAD
    #: Whether what processes print is kept from the terminal.
    quiet: bool = True
    _made: dict[str, Ranks] = field(default_factory=dict)

    def get(self, name: str) -> Ranks:
        if name == PROCESSES and self.job is not None:
            return self.job
        if name not in self._made:
            processes = partial(Processes, self.backend, preload=self.preload, quiet=self.quiet)
            self._made[name] = Threads() if name == THREADS else processes()
        return self._made[name]

    def prepare(self) -> None:
        """Let the server of processes import what ranks need, beside other checks."""
        if self.job is None:
            ranks = self.get(PROCESSES)
            assert isinstance(ranks, Processes)
            ranks.prepare()

    def close(self) -> None:
        for ranks in self._made.values():
            ranks.close()
        self._made.clear()
        if self.job is not None:
            self.job.close()
