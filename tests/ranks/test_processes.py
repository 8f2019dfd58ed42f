"""Ranks as processes: kept between runs, every failure told within seconds, no process left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.ranks import Processes, RanksFailed, Threads
from tests.ranks.steps import (
    ASYNCHRONOUS,
    RESULTS,
    alive_and_slow,
    compiles_for_long,
    destroys_its_group,
    environment,
    every_rank_raises,
    fail,
    gathers,
    leaves_something_in_flight,
    print_and_die,
    print_line,
    process_id,
    result_of,
    results_of,
    sleeps_with_its_watcher,
)

pytestmark = pytest.mark.xdist_group("processes")
PRELOAD = ("torch", "fixtures.ranks.processes.rank_process")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    ranks = Processes(patience=2, preload=PRELOAD)
    yield ranks
    ranks.close()


def _ids(ranks: Processes, world_size: int) -> list[int]:
    return [result.value for result in ranks.run(process_id, world_size)]


def _gone(process_ids: list[int], within: float = 10.0) -> bool:
    """Say whether all of these processes end in time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + within
    while any(map(_alive, process_ids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process_id}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc/self").exists() else True
    except OSError:
        return False


def test_ranks_are_kept_from_run_to_run(processes: Processes) -> None:
    ids = _ids(processes, 3)
    assert len(set(ids)) == 3
    assert os.getpid() not in ids
    processes.run(gathers, 3, 5)
    assert _ids(processes, 3) == ids


def test_a_run_on_ranks_that_are_there_takes_little(processes: Processes) -> None:
    processes.run(gathers, 3, 1)
    start = time.monotonic()
    for _ in range(5):
        processes.run(gathers, 3, 10)
    assert (time.monotonic() - start) / 5 < 1


def test_the_log_tells_what_was_issued(processes: Processes) -> None:
    for result in processes.run(result_of, 2, "all_gather"):
        assert [(entry.describe(), entry.asynchronous, entry.contiguous) for entry in result.collectives] == [
            ("all_gather([1, 5, 1] float32)", True, True)
        ]
    for result in processes.run(gathers, 2, 2):
        assert [(entry.describe(), entry.asynchronous) for entry in result.collectives] == [
            ("all_gather([1, 5, 1] float32)", False)
        ] * 2


def test_each_rank_sees_the_environment_that_torchrun_would_set(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = processes.run(environment, 3, ranks_per_node=2)
    assert [result.value["LOCAL_RANK"] for result in results] == ["0", "1", "0"]
    assert [result.value["GROUP_RANK"] for result in results] == ["0", "0", "1"]
    assert [result.value["LOCAL_RANK"] for result in processes.run(environment, 3)] == ["0", "1", "2"]
    monkeypatch.setenv("SET_FOR_THIS_RUN", "yes")
    assert [result.value for result in processes.run(_variable, 2, "SET_FOR_THIS_RUN")] == ["yes", "yes"]
    monkeypatch.delenv("SET_FOR_THIS_RUN")
    assert [result.value for result in processes.run(_variable, 2, "SET_FOR_THIS_RUN")] == [None, None]


def _variable(rank: int, world_size: int, name: str) -> str | None:
    return os.environ.get(name)


def test_at_most_two_pools_are_alive(processes: Processes) -> None:
    first, second = _ids(processes, 1), _ids(processes, 2)
    processes.run(gathers, 3, 1)
    assert _gone(first)
    assert _ids(processes, 2) == second


def _leaves_a_folder(rank: int, world_size: int) -> str:
    return tempfile.mkdtemp()


def test_what_ranks_leave_goes_with_them() -> None:
    ranks = Processes(preload=PRELOAD)
    folders = [Path(result.value) for result in ranks.run(_leaves_a_folder, 2)]
    assert all(folder.is_dir() for folder in folders)
    ranks.close()
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("function", [leaves_something_in_flight, destroys_its_group])
def test_ranks_that_are_not_as_new_are_replaced(function: Any, processes: Processes) -> None:
    before = _ids(processes, 2)
    processes.run(function, 2)
    assert _gone(before)
    assert len(processes.run(gathers, 2, 2)) == 2


@pytest.mark.parametrize("world_size", [0, 65])
def test_impossible_world_sizes_are_refused(world_size: int, processes: Processes) -> None:
    with pytest.raises(ValueError, match=f"world size {world_size} .* 1 to 64"):
        processes.run(gathers, world_size, 1)


WAITS = r"waits in all_gather\(\[1, 5, 1\] float32\), its collective number 3"
LAST = r"all_gather\(\[1, 5, 1\] float32\), its collective number 2"


@pytest.mark.parametrize(
    ("how", "reason", "culprit"),
    [
        ("exception", r"^rank 1 raised ValueError: the culprit's own words$", "raised"),
        ("exit", rf"^rank 1 exited with status 3, after {LAST}$", "exited"),
        ("kill", rf"^rank 1 was killed by signal 9 \(SIGKILL\), after {LAST}$", "killed"),
        ("skip", rf"^deadlock: each of ranks 0 and 2 {WAITS}; rank 1 finished", "finished"),
        ("shape", r"disagree on collective number 3: .* rank 1 issued all_gather\(\[3\] float32\)", ""),
        ("dtype", r"disagree on collective number 3: .* rank 1 issued all_gather\(\[1, 5, 1\] int64\)", ""),
        ("operation", r"disagree on collective number 3: .* rank 1 issued broadcast\(", "waiting"),
        ("loop", rf"^no heartbeat for 2 s: .*{WAITS}; rank 1 runs outside any collective, after {LAST}", "running"),
    ],
)
def test_a_failure_names_ranks_collectives_and_stacks(
    how: str, reason: str, culprit: str, processes: Processes
) -> None:
    processes.run(gathers, 3, 1)
    before = _ids(processes, 3)
    start = time.monotonic()
    with pytest.raises(RanksFailed) as failed:
        processes.run(fail, 3, how)
    assert time.monotonic() - start < 20
    failure = failed.value
    assert re.search(reason, failure.reason), failure.reason
    assert not culprit or failure.statuses[1].state == culprit
    for status in failure.statuses:
        assert f"rank {status.rank} {status.detail}" in str(failure)
        if status.state == "waiting" and status.rank != 1:
            assert re.fullmatch(WAITS, status.detail)
        if status.state in ("waiting", "running", "raised"):
            assert "in fail" in status.stack
            assert "rank_process.py" not in status.stack
    if how in ("exception", "skip", "loop", "operation"):
        assert [failure.statuses[rank].state for rank in (0, 2)] == ["waiting", "waiting"]
    assert _gone(before)
    assert len(processes.run(gathers, 3, 2)) == 3


def test_a_rank_that_sleeps_is_given_up_within_twenty_seconds() -> None:
    ranks = Processes(preload=PRELOAD)  # with the default patience
    ranks.run(gathers, 2, 1)
    start = time.monotonic()
    with pytest.raises(RanksFailed, match=r"^no heartbeat for 15 s: .*rank 1 runs outside any collective"):
        ranks.run(fail, 2, "sleep")
    assert time.monotonic() - start < 20
    ranks.close()


def test_ranks_that_slept_with_their_watcher_are_not_accused(processes: Processes) -> None:
    results = processes.run(sleeps_with_its_watcher, 2, os.getpid(), 4.0)
    assert [result.value for result in results] == [0, 1]


def test_every_exception_is_told(processes: Processes) -> None:
    with pytest.raises(RanksFailed) as failed:
        processes.run(every_rank_raises, 2)
    assert [status.state for status in failed.value.statuses] == ["raised", "raised"]
    for rank in (0, 1):
        assert f"rank {rank} raised LookupError: here is rank {rank}" in failed.value.reason
        assert "in every_rank_raises" in failed.value.statuses[rank].stack


def _gives_what_cannot_be_sent(rank: int, world_size: int) -> Any:
    return lambda: rank


def test_a_result_that_cannot_be_sent_is_a_failure(processes: Processes) -> None:
    with pytest.raises(RanksFailed, match=r"raised .*pickle"):
        processes.run(_gives_what_cannot_be_sent, 1)


def test_a_rank_whose_code_is_being_compiled_is_at_work(processes: Processes) -> None:
    assert [result.value for result in processes.run(compiles_for_long, 2, 5.0)] == [0, 1]


def test_a_heartbeat_keeps_a_slow_rank_going(processes: Processes) -> None:
    assert [result.value for result in processes.run(alive_and_slow, 2, 3.0)] == [0, 1]


# ---- threads are compared with gloo

WORLD_SIZES = (1, 2, 3)
#: Gloo has no all_to_all of lists, gathers into flat tensors only, and sends nothing to the sender.
NOT_ON_GLOO = {"all_to_all", "all_gather_into_tensor_stacked", "coalescing_manager"}
NOT_ALONE = {"send_and_receive", "batch_of_sends"}


def _names(world_size: int) -> list[str]:
    names = [name for name in (*ASYNCHRONOUS, *RESULTS) if name not in NOT_ON_GLOO]
    return [name for name in names if world_size > 1 or name not in NOT_ALONE]


@pytest.fixture(scope="module")
def on_gloo(processes: Processes) -> dict[int, list[Any]]:
    return {size: [result.value for result in processes.run(results_of, size, _names(size))] for size in WORLD_SIZES}


@pytest.mark.parametrize(("name", "world_size"), [(name, size) for size in WORLD_SIZES for name in _names(size)])
def test_threads_deliver_what_gloo_delivers(name: str, world_size: int, on_gloo: dict[int, list[Any]]) -> None:
    for result in _THREADS.run(result_of, world_size, name):
        assert _plain(result.value) == _plain(on_gloo[world_size][result.rank][name])


_THREADS = Threads()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# ---- no process is left behind


def test_no_rank_survives_close(processes: Processes) -> None:
    ranks = Processes(preload=PRELOAD)
    ids = _ids(ranks, 2)
    ranks.close()
    assert not any(map(_alive, ids))
    assert len(_ids(ranks, 2)) == 2  # closed, and yet good for another run
    ranks.close()


PREPARED = """
import os, signal, sys, time
sys.path[:0] = [{root!r}, {folder!r}]
from fixtures.ranks import Processes
from multiprocessing import forkserver

if __name__ == "__main__":
    ranks = Processes(preload=["sleeps"])
    ranks.prepare()
    while not os.path.exists(os.path.join({folder!r}, "imported")):
        time.sleep(0.1)
    print(forkserver._forkserver._forkserver_pid, flush=True)
    {end}
"""


def _end_while_the_server_imports(end: str, folder: Path) -> tuple[int, float]:
    """Start a process whose server imports for 20 seconds, and let it end; gives the server's id and how long it took.

    ``end``: what the process does when the server has begun to import.
    """
    touch = "pathlib.Path(__file__).with_name('imported').touch()"
    (folder / "sleeps.py").write_text(f"import pathlib, time\n{touch}\ntime.sleep(20)\n")
    script = folder / "prepares.py"
    script.write_text(PREPARED.format(root=str(ROOT), folder=str(folder), end=end))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        start = time.monotonic()
        process.wait()
        return server, time.monotonic() - start


def test_closing_does_not_wait_for_what_the_server_imports(tmp_path: Path) -> None:
    assert _end_while_the_server_imports("ranks.close()", tmp_path)[1] < 10


def test_a_server_that_imports_does_not_survive_the_death_of_its_parent(tmp_path: Path) -> None:
    server, _ = _end_while_the_server_imports("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert _gone([server])


SCRIPT = """
import os, sys, time
sys.path.insert(0, {root!r})
from fixtures.ranks import Processes
from tests.ranks.steps import fail, process_id

if __name__ == "__main__":
    ranks = Processes(preload={preload!r})
    ids = [result.value for result in ranks.run(process_id, 2)]
    from multiprocessing import forkserver
    print(*ids, forkserver._forkserver._forkserver_pid, flush=True)
    {end}
"""


def test_what_ranks_print_is_told_where_one_dies_and_not_before(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    processes.run(print_line, 2, "of the job before")
    with pytest.raises(RanksFailed) as failed:
        processes.run(print_and_die, 2, "the words")
    told = failed.value.statuses[0].stack
    assert "its last output:\nthe words of rank 0\nfrom below" in told
    assert "of the job before" not in told
    assert capfd.readouterr() == ("", "")


def _start(end: str, folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process with two ranks that then does what ``end`` says; gives the ids of the ranks and their server."""
    script = folder / "with_ranks.py"
    script.write_text(textwrap.dedent(SCRIPT).format(root=str(ROOT), preload=PRELOAD, end=end))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    ids = [int(word) for word in process.stdout.readline().split()]
    assert len(ids) == 3
    return process, ids


def test_no_process_survives_the_exit_of_its_parent(tmp_path: Path) -> None:
    process, ids = _start("pass", tmp_path)
    assert _gone(ids)
    process.communicate()
    assert process.returncode == 0


def test_no_process_survives_the_death_of_its_parent(tmp_path: Path) -> None:
    process, ids = _start("ranks.run(fail, 2, 'loop')", tmp_path)
    time.sleep(0.5)
    assert all(map(_alive, ids))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert _gone(ids)
