"""What a verification is started with: its device, its journal, the launchers of ranks, torchrun's job."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fixtures.ranks import RanksFailed, RendezvousError, Torchrun, gpus
from verify import request
from verify.engine.aftermath import Plan
from verify.engine.check import THREADS
from verify.engine.journal import VARIABLE, Journal, journal_of_process
from verify.engine.launchers import Launchers
from verify.engine.options import Options, UsageError, job_world_size
from verify.engine.report import Counts
from verify.engine.supervisor import IMPORTS
from verify.groups import PRELOADED, on_processes
from verify.session import is_worker, judges_here
from verify.target.naming import Target
from verify.target.preload import announced


def choose_device(backend: str) -> None:
    """Let this process see no GPU, or where it is itself a rank on NCCL, compute on its own: before sam3 is imported.

    Raises:
        UsageError: where a GPU is seen that should not be.
    """
    if backend != "nccl" or "WORLD_SIZE" not in os.environ:
        gpus.hide()
        if torch.cuda.is_available():
            raise UsageError(
                "the GPUs of this machine cannot be hidden from what is judged on the CPU, for CUDA was asked before: "
                "set CUDA_VISIBLE_DEVICES to nothing"
            )
        return
    gpus.show()
    local_rank = os.environ.get("LOCAL_RANK", "")
    if local_rank.isdecimal() and int(local_rank) < gpus.count():  # what else it is, is refused with the options
        gpus.own_gpu(int(local_rank))


def journal_for(config: pytest.Config) -> Journal:
    """The journal of this process: in the folder that the supervisor reads, or where workers need one, in another."""
    if "WORLD_SIZE" in os.environ:
        return Journal()  # the ranks watch over each other
    if VARIABLE not in os.environ and getattr(config.option, "numprocesses", None):
        folder = tempfile.mkdtemp(prefix="sam3-video-verify-")
        os.environ[VARIABLE] = folder  # workers inherit it
        config.add_cleanup(_remove_journal)
    journal = journal_of_process()
    if not is_worker(config):
        option = config.option
        unknown = {"version": "unknown", "commit": None, "folder": ""}
        target = {"spec": option.target, "builder": option.builder, "origin": "", "sam3": unknown, "subjects": []}
        report = str(Path(option.report).absolute()) if option.report else None
        page = str(Path(option.htmlpath).absolute()) if option.htmlpath else None
        plan = Plan("the target was imported and built", target, {}, (), Counts(), report, IMPORTS, page)
        journal.plan(plan.as_json())
    return journal


def _remove_journal() -> None:
    shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


def launchers_of(config: pytest.Config) -> Launchers:
    """The launchers of ranks, with their server started already where the options tell that it will be needed.

    It imports what this process does, sam3 and the target, and ranks would wait for it to begin with that later.
    """
    option = config.option
    launchers = Launchers(option.backend, preload=PRELOADED, quiet=config.getoption("capture") != "no")
    target = request.located_target(option)
    if judges_here(config) and THREADS not in (option.launcher, option.carrier) and on_processes(option.only):
        config.add_cleanup(launchers.close)  # where it comes to no checks
        with announced(target):
            launchers.prepare()
    return launchers


def job_of(options: Options[Target], on_abort: Callable[[RanksFailed], None]) -> Torchrun | None:
    """Torchrun's job, where this process is a rank of one; ``on_abort`` is called on rank 0 before a failure ends it.

    Raises:
        UsageError: pytest's, where the ranks do not meet, or were started with different options.
    """
    if job_world_size() is None:
        return None
    try:
        job = Torchrun(options.backend, on_abort=on_abort)
    except RendezvousError as error:
        raise pytest.UsageError(str(error)) from None
    mine = options.fingerprint()
    everyone = job.exchange(mine)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise pytest.UsageError(
                    f"the ranks were started with different options: {name} is {everyone[0][name]} on rank 0 "
                    f"and {value} on rank {rank}"
                )
    return job
