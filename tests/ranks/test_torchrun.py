"""Ranks that torchrun started; as a script, what such a rank does."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from fixtures.ranks import Processes, RanksFailed, RendezvousError, Threads, Torchrun
from fixtures.ranks.environment import rank_environment
from tests.ranks.steps import (
    compiles_for_long,
    environment,
    every_rank_raises,
    fail,
    gathers,
    leaves_something_in_flight,
    process_id,
    results_of,
)

pytestmark = pytest.mark.xdist_group("processes")
ROOT = Path(__file__).parents[2]
PATIENCE = 2


def job(what: str) -> None:
    """Be one rank of a job."""
    ranks = Torchrun(patience=PATIENCE)
    (world_size,) = ranks.world_sizes()
    results = ranks.run(gathers, world_size, 2)
    assert [result.rank for result in results] == list(range(world_size))
    assert len({result.value for result in results}) == 1
    assert all(entry.operation == "all_gather" for result in results for entry in result.collectives)
    if what != "agree":
        ranks.run(fail, world_size, what)
    names = ["environment", "all_gather", "groups_of_two", "all_gather_object"]
    values = [result.value for result in ranks.run(results_of, world_size, names)]
    assert [value["environment"]["LOCAL_RANK"] for value in values] == [str(rank) for rank in range(world_size)]
    assert ranks.exchange(10 * ranks.rank) == [10 * rank for rank in range(world_size)]
    large = bytes(range(256)) * 2**16  # more than the store takes under one key
    assert ranks.exchange(large) == [large] * world_size
    assert ranks.broadcast(f"from {ranks.rank}", source=world_size - 1) == f"from {world_size - 1}"
    if ranks.rank == 0:
        time.sleep(2 * PATIENCE)  # longer than a hang may last, and yet alive
    assert ranks.broadcast(ranks.rank) == 0
    compiled = ranks.run(compiles_for_long, world_size, 2.5 * PATIENCE)
    assert [result.value for result in compiled] == list(range(world_size))
    with pytest.raises(RanksFailed) as failed:
        ranks.run(every_rank_raises, world_size)
    assert [status.state for status in failed.value.statuses] == ["raised"] * world_size
    for rank in range(world_size):
        assert f"rank {rank} raised LookupError: here is rank {rank}" in str(failed.value)
    assert list(failed.value.causes) == [ranks.rank]
    with pytest.raises(ValueError, match="ranks_per_node"):
        ranks.run(gathers, world_size, 1, ranks_per_node=1)
    with pytest.raises(ValueError, match="world size"):
        ranks.run(gathers, world_size + 1, 1)
    ranks.run(leaves_something_in_flight, world_size)
    threads = Threads()  # on process groups of their own, the job's put aside meanwhile
    assert [result.value["RANK"] for result in threads.run(environment, 3)] == ["0", "1", "2"]
    threads.close()
    assert os.environ["RANK"] == str(ranks.rank)
    ranks.run(gathers, world_size, 2)
    ranks.close()
    print(f"rank {ranks.rank} agrees", flush=True)


def rank_of_job(rank: int, world_size: int, port: int, what: str, output: Path) -> None:
    """Be one rank of a job that no torchrun has started, but with the variables that it would have set."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(rank_environment(rank, world_size), MASTER_PORT=str(port))
    job(what)


@pytest.fixture(scope="module")
def forked() -> Iterator[Any]:
    """Give a context whose processes are forked from a server that has imported torch."""
    ranks = Processes(preload=("torch", "fixtures.ranks.processes.rank_process", "pytest"))
    ranks.run(process_id, 1)
    yield get_context("forkserver")
    ranks.close()


def _by_hand(
    forked: Any, world_size: int, what: str, folder: Path, timeout: float = 60
) -> tuple[list[int | None], str]:
    """Run a job without torchrun; gives the ranks' exit statuses and their output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = folder / "output"
    arguments = [(rank, world_size, port, what, output) for rank in range(world_size)]
    ranks = [forked.Process(target=rank_of_job, args=each, daemon=True) for each in arguments]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 60
    told = False
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
        if not told and any(rank.exitcode for rank in ranks):
            for rank in ranks:  # as torchrun does once one of its ranks has failed
                rank.terminate()
            told = True
    statuses = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.join()
    return statuses, output.read_text()


@pytest.mark.parametrize("world_size", [1, 3])
def test_ranks_exchange_results_and_failures(world_size: int, forked: Any, tmp_path: Path) -> None:
    statuses, output = _by_hand(forked, world_size, "agree", tmp_path)
    assert statuses == [0] * world_size, output
    assert all(f"rank {rank} agrees" in output for rank in range(world_size))


WAITS = r"rank 0 waits in all_gather\(\[1, 5, 1\] float32\), its collective number 3\n(?:.*\n)+?.*in gathers"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exception", r"rank 1 raised ValueError: the culprit's own words\n"),
        ("exit", r"rank 1 is gone without a word .*, after all_gather\(.*, its collective number 2\n"),
        ("skip", r"deadlock: each of ranks 0 and 2 waits in all_gather\(.*; rank 1 finished after 2"),
        ("shape", r"disagree on collective number 3: .*; rank 1 issued all_gather\(\[3\] float32\)"),
        ("operation", r"disagree on collective number 3: .*; rank 1 issued broadcast\(\[1, 5, 1\] float32\)"),
        ("loop", rf"no heartbeat for {PATIENCE} s: .*; rank 1 runs outside any collective, after all_gather"),
    ],
)
def test_a_failure_ends_the_job_with_one_account(how: str, reason: str, forked: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    statuses, output = _by_hand(forked, 3, how, tmp_path)
    assert time.monotonic() - start < 20
    assert all(statuses), output
    _account(output, how, reason)


def _account(output: str, how: str, reason: str) -> None:
    assert output.count("the job ends, for its ranks cannot be replaced: ") == 1, output
    assert re.search(f"cannot be replaced: .*{reason}", output), output
    # Where a rank dies gloo makes the others raise.
    assert how in ("exit", "kill", "shape") or re.search(WAITS, output), output


@pytest.mark.parametrize("what", ["agree", "kill"])
def test_torchrun_starts_the_ranks(what: str) -> None:
    mark = f"ranks-of-{os.getpid()}-{time.monotonic_ns()}"
    arguments = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments, __file__, what, mark],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    output = done.stdout + done.stderr
    if what == "agree":
        assert done.returncode == 0, output
        assert all(f"rank {rank} agrees" in output for rank in range(2))
    else:
        assert done.returncode != 0
        _account(output, what, r"rank 1 is gone without a word .*, after all_gather\(.*, its collective number 2\n")
    assert not _with_argument(mark)


def test_a_rank_that_dies_on_another_node_is_named_with_its_node(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    outputs = [tmp_path / f"node-{node}" for node in range(2)]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, f"--node-rank={node}", __file__, "kill"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=output.open("w"),
            stderr=subprocess.STDOUT,
        )
        for node, output in enumerate(outputs)
    ]
    try:
        deadline = time.monotonic() + 120
        while "Root Cause" not in outputs[0].read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        for agent in agents:  # torchrun's own may wait for each other for minutes
            agent.kill()
            agent.wait()
    nodes = r"node 0 \(\S+\) has rank 0, node 1 \(\S+\) has rank 1"
    _account(outputs[0].read_text(), "kill", f"rank 1 is gone without a word .*; {nodes}")


def _with_argument(mark: str) -> list[str]:
    """Give the command lines of the processes that have ``mark`` among their arguments."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_text().split("\0")
        except OSError:
            continue
        if mark in words:
            found.append(" ".join(words))
    return found


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "RANK is 'not set': start the ranks with torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE is set and MASTER_ADDR and MASTER_PORT not: start .* or unset"),
        ({"RANK": "0", "WORLD_SIZE": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "WORLD_SIZE is 'x'"),
    ],
)
def test_a_job_that_torchrun_did_not_start_is_refused(
    variables: dict[str, str], message: str, alone: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        alone.setenv(name, value)
    with pytest.raises(RendezvousError, match=message):
        Torchrun()


def test_a_port_in_use_is_named(alone: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values: dict[str, Any] = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            alone.setenv(name, str(value))
        with pytest.raises(RendezvousError, match=f"127.0.0.1:{port} is in use: give torchrun another --master-port"):
            Torchrun()


if __name__ == "__main__":
    job(sys.argv[1])
