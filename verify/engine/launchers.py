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
_GLOO, _NCCL = "gloo", "nccl"


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

    @property
    def on_a_gpu(self) -> bool:
        """Whether this process is itself a rank on NCCL, and computes on a GPU whatever it computes."""
        return self.job is not None and self.backend == _NCCL

    def on_nccl(self, name: str, on_cpu: bool = False) -> bool:
        """Whether ranks are on NCCL: processes where the backend is that, but for those that are to be ``on_cpu``."""
        return name == PROCESSES and self.backend == _NCCL and not on_cpu

    def get(self, name: str, on_cpu: bool = False) -> Ranks:
        """The ranks of a launcher; ``on_cpu``: on gloo, whatever the backend is."""
        if name == PROCESSES and self.job is not None:
            return self.job
        backend = _NCCL if self.on_nccl(name, on_cpu) else _GLOO
        kind = name if name == THREADS else backend
        if kind not in self._made:
            # Beside the two world sizes of cases there is, on NCCL, the rank that these are compared with.
            pools = 3 if backend == _NCCL else 2
            processes = partial(Processes, backend, preload=self.preload, pools=pools, quiet=self.quiet)
            self._made[kind] = Threads() if name == THREADS else processes()
        return self._made[kind]

    def prepare(self) -> None:
        """Let the server of processes import what ranks need, beside other checks; of ranks on NCCL there is none."""
        if self.job is None and self.backend != _NCCL:
            ranks = self.get(PROCESSES)
            assert isinstance(ranks, Processes)
            ranks.prepare()

    def close(self) -> None:
        """End the ranks that were made here; a job's are not."""
        for ranks in self._made.values():
            ranks.close()
        self._made.clear()
