"""Ranks as threads: poison until waited on, failures told at once, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import distributed_c10d as c10d
from torch.nn.parallel import DistributedDataParallel

from fixtures.ranks import NotCoveredByThreads, RanksFailed, Threads
from fixtures.ranks.environment import environment_of_rank
from tests.ranks.steps import (
    ASYNCHRONOUS,
    alive_and_slow,
    compiles_for_long,
    destroys_its_group,
    empty,
    environment,
    every_rank_raises,
    fail,
    functional_collectives,
    gathers,
    go_round,
    leaves_something_in_flight,
    own,
    sleeps_with_its_watcher,
)


@pytest.fixture(scope="module")
def threads() -> Iterator[Threads]:
    ranks = Threads(patience=1)
    yield ranks
    ranks.close()


# ---- poison


def _poisoned_then_right(rank: int, world_size: int, name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    handle, outputs = ASYNCHRONOUS[name](rank, world_size)
    early = [output.clone() for output in outputs]
    handle.wait()
    return early, outputs


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_results_are_poison_until_waited_on(name: str, world_size: int, threads: Threads) -> None:
    for result in threads.run(_poisoned_then_right, world_size, name):
        early, outputs = result.value
        source = name == "broadcast" and result.rank == world_size - 1  # has nothing to receive
        assert all(tensor.isnan().all() for tensor in early) or source
        assert not any(tensor.isnan().any() for tensor in outputs)
        assert all(entry.asynchronous and entry.waited for entry in result.collectives)


def _gather_of(rank: int, world_size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    value = torch.zeros(4, dtype=dtype)
    outputs = [torch.zeros(4, dtype=dtype) for _ in range(world_size)]
    handle = dist.all_gather(outputs, value, async_op=True)
    early = outputs[0].clone()
    handle.wait()
    return early, outputs[0]


DTYPES = [
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_number_has_a_poison(dtype: torch.dtype, threads: Threads) -> None:
    for result in threads.run(_gather_of, 2, dtype):
        early, late = result.value
        assert not torch.equal(early.float(), late.float())
        assert torch.equal(late, torch.zeros(4, dtype=dtype))


def _waits_for_one_of_two(rank: int, world_size: int) -> tuple[bool, bool]:
    first, second = empty(world_size, 3), empty(world_size, 3)
    dist.all_gather(first, own(rank, 3), async_op=True)
    dist.all_gather(second, own(rank, 3), async_op=True).wait()
    return bool(first[0].isnan().all()), bool(second[0].isnan().any())


def test_waiting_on_one_handle_brings_that_result_alone(threads: Threads) -> None:
    for result in threads.run(_waits_for_one_of_two, 3):
        assert result.value == (True, False)
        assert [entry.waited for entry in result.collectives] == [False, True]


def _polls(rank: int, world_size: int) -> int:
    outputs = empty(world_size, 3)
    handle = dist.all_gather(outputs, own(rank, 3), async_op=True)
    polls = 1
    while not handle.is_completed():
        polls += 1
    assert not outputs[-1].isnan().any()
    return polls


def test_a_rank_may_poll_until_the_result_is_there(threads: Threads) -> None:
    assert all(result.value >= 1 for result in threads.run(_polls, 3))


def _future(rank: int, world_size: int) -> Any:
    outputs = empty(world_size, 3)
    future = dist.all_gather(outputs, own(rank, 3), async_op=True).get_future()
    doubled = future.then(lambda done: [2 * tensor for tensor in done.value()])
    early = bool(outputs[0].isnan().all())
    return early, doubled.wait()[-1].tolist()


def test_a_future_waits_as_its_handle_does(threads: Threads) -> None:
    assert all(result.value == (True, [400.0, 402.0, 404.0]) for result in threads.run(_future, 2))


def _changes_its_input(rank: int, world_size: int, how: str) -> list[float]:
    whole = own(rank, 6)
    outputs = empty(world_size, 3)
    handle = dist.all_gather(outputs, whole[:3], async_op=True)
    match how:
        case "input":
            whole[0] = -1
        case "elsewhere in its storage":
            whole[5] = -1
        case "same value":
            whole[0] = whole[0].clone()
    handle.wait()
    return outputs[rank].tolist()


@pytest.mark.parametrize(
    ("how", "changed"), [("input", True), ("elsewhere in its storage", False), ("same value", False), ("", False)]
)
def test_a_change_of_an_input_before_waiting_is_noticed(how: str, changed: bool, threads: Threads) -> None:
    for result in threads.run(_changes_its_input, 2, how):
        assert result.value == own(result.rank, 3).tolist()
        assert [entry.input_changed for entry in result.collectives] == [changed]


def _differing_calls(rank: int, world_size: int) -> None:
    whole = own(rank, 4, 3)
    dist.all_gather(empty(world_size, 3, 4), whole.t())
    dist.all_gather(empty(world_size, 4, 3), whole, async_op=True)
    dist.broadcast(torch.zeros(2, dtype=torch.int64), 0)
    dist.barrier()


def test_the_log_tells_what_was_issued(threads: Threads) -> None:
    for result in threads.run(_differing_calls, 2):
        calls = [(entry.describe(), entry.contiguous, entry.asynchronous, entry.waited) for entry in result.collectives]
        assert calls == [
            ("all_gather([3, 4] float32)", False, False, True),
            ("all_gather([4, 3] float32)", True, True, False),
            ("broadcast([2] int64)", True, False, True),
            ("barrier()", True, False, True),
        ]


def _in_inference_mode(rank: int, world_size: int) -> list[float]:
    with torch.inference_mode():
        outputs = empty(world_size, 2)
        dist.all_gather(outputs, own(rank, 2), async_op=True).wait()
        return outputs[0].tolist()


def test_inference_tensors_can_be_gathered(threads: Threads) -> None:
    assert all(result.value == [100.0, 101.0] for result in threads.run(_in_inference_mode, 2))


def _uneven(rank: int, world_size: int) -> list[int]:
    outputs = [torch.zeros(n + 1) for n in range(world_size)]
    dist.all_gather(outputs, own(rank, rank + 1))
    return [len(output) for output in outputs if output.sum() >= 100]


def test_inputs_of_different_sizes_can_be_gathered_as_with_nccl(threads: Threads) -> None:
    assert all(result.value == [1, 2, 3] for result in threads.run(_uneven, 3))


def test_functional_collectives_are_poison_until_waited_on(threads: Threads) -> None:
    for result in threads.run(functional_collectives, 2):
        early, gathered, total = result.value
        assert early.isnan().all()
        assert torch.equal(gathered, torch.cat([own(0, 2, 3), own(1, 2, 3)]))
        assert torch.equal(total, own(0, 2) + own(1, 2))


def test_ranks_that_slept_with_their_watcher_are_not_accused() -> None:
    threads = Threads(patience=2)
    results = threads.run(sleeps_with_its_watcher, 2, os.getpid(), 4.0)
    threads.close()
    assert [result.value for result in results] == [0, 1]


def _step_in_parallel(rank: int, world_size: int) -> torch.Tensor:
    model = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    parallel = DistributedDataParallel(model)
    parallel(own(rank, 1, 3)).sum().backward()
    assert model.weight.grad is not None
    return model.weight.grad


def test_distributed_data_parallel_averages_gradients() -> None:
    threads = Threads(patience=100)  # torch imports its compiler meanwhile
    for result in threads.run(_step_in_parallel, 2):
        torch.testing.assert_close(result.value, (own(0, 1, 3) + own(1, 1, 3)) / 2)
    threads.close()


def _monitored(rank: int, world_size: int, how: str) -> None:
    if how == "monitored_barrier":
        dist.group.WORLD.monitored_barrier()
    else:
        dist.all_reduce(own(rank, 2), dist._make_nccl_premul_sum(2.0))


@pytest.mark.parametrize(("how", "named"), [("monitored_barrier", "monitored_barrier"), ("factor", "PREMUL_SUM")])
def test_what_is_not_covered_says_so(how: str, named: str, threads: Threads) -> None:
    with pytest.raises(RanksFailed, match=f"NotCoveredByThreads: .*{named}") as failed:
        threads.run(_monitored, 2, how)
    assert all(isinstance(cause, NotCoveredByThreads) for cause in failed.value.causes.values())


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(world_size=st.integers(1, 8), order=st.permutations(range(5)), late=st.integers(0, 7))
def test_handles_may_be_waited_on_in_any_order(world_size: int, order: list[int], late: int) -> None:
    def gather_all(rank: int, world_size: int) -> bool:
        outputs = [empty(world_size, 2) for _ in order]
        handles = [dist.all_gather(output, own(rank, 2) + 10 * n, async_op=True) for n, output in enumerate(outputs)]
        if rank == late:
            handles.reverse()
            outputs.reverse()
        for n in order:
            handles[n].wait()
            number = 4 - n if rank == late else n
            assert all(torch.equal(part, own(r, 2) + 10 * number) for r, part in enumerate(outputs[n]))
        return True

    assert all(result.value for result in _SHARED.run(gather_all, world_size))


_SHARED = Threads()


# ---- the rank's surroundings


def test_each_rank_sees_the_environment_that_torchrun_would_set(threads: Threads) -> None:
    before = dict(os.environ)
    results = threads.run(environment, 5, ranks_per_node=2)
    assert [result.value["LOCAL_RANK"] for result in results] == ["0", "1", "0", "1", "0"]
    assert [result.value["GROUP_RANK"] for result in results] == ["0", "0", "1", "1", "2"]
    assert [result.value["LOCAL_WORLD_SIZE"] for result in results] == ["2", "2", "2", "2", "1"]
    assert [result.value["RANK"] for result in threads.run(environment, 2)] == ["0", "1"]
    assert dict(os.environ) == before
    assert type(os.environ) is os._Environ


def test_the_process_is_as_before_after_a_run(threads: Threads) -> None:
    world = c10d._world
    threads.run(gathers, 2, 1)
    with pytest.raises(RanksFailed):
        threads.run(every_rank_raises, 2)
    assert c10d._world is world
    assert not dist.is_initialized()


def _interrupts(rank: int, world_size: int) -> None:
    if rank == 1:
        threading.Timer(0.2, lambda: __import__("_thread").interrupt_main()).start()
        go_round()
    gathers(rank, world_size, 1)


def test_an_interrupt_leaves_nothing_in_place() -> None:
    threads = Threads(patience=15.0)  # on a busy machine the interrupt comes late
    world = c10d._world
    # A shell starts what runs in its background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run(_interrupts, 2)
        assert c10d._world is world
        assert type(os.environ) is os._Environ
        assert len(threads.run(gathers, 2, 1)) == 2
    finally:
        signal.signal(signal.SIGINT, before)
        threads.close()


@pytest.mark.parametrize("world_size", [0, 65, -1])
def test_impossible_world_sizes_are_refused(world_size: int, threads: Threads) -> None:
    with pytest.raises(ValueError, match=f"world size {world_size} .* 1 to 64"):
        threads.run(gathers, world_size, 1)


def test_many_ranks_can_run(threads: Threads) -> None:
    assert len(threads.run(gathers, 64, 2)) == 64


@pytest.mark.parametrize("function", [leaves_something_in_flight, destroys_its_group])
def test_a_run_finds_nothing_of_the_one_before(function: Any, threads: Threads) -> None:
    assert len(threads.run(function, 3)) == 3
    assert len(threads.run(gathers, 3, 2)) == 3


# ---- failures

WAITS = r"waits in all_gather\(\[1, 5, 1\] float32\), its collective number 3"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exception", r"^rank 1 raised ValueError: the culprit's own words$"),
        (
            "skip",
            r"^deadlock: ranks 0 and 2 wait in all_gather\(\[1, 5, 1\] float32\) for rank 1, and rank 1 has finished",
        ),
        ("shape", r"disagree on collective number 3: .* rank 1 issued all_gather\(\[3\] float32\)"),
        ("dtype", r"disagree on collective number 3: .* rank 1 issued all_gather\(\[1, 5, 1\] int64\)"),
        (
            "operation",
            r"disagree on collective number 3: .* rank 1 issued broadcast\(\[1, 5, 1\] float32\) from",
        ),
    ],
)
def test_a_failure_is_told_at_once(how: str, reason: str) -> None:
    threads = Threads()  # with the default patience, none of which is needed
    threads.run(gathers, 3, 1)
    start = time.monotonic()
    with pytest.raises(RanksFailed) as failed:
        threads.run(fail, 3, how)
    assert time.monotonic() - start < 5
    _told(failed.value, reason)
    assert len(threads.run(gathers, 3, 2)) == 3
    threads.close()


@pytest.mark.parametrize("how", ["loop", "sleep"])
def test_a_rank_that_goes_round_for_ever_is_given_up(how: str, threads: Threads) -> None:
    with pytest.raises(RanksFailed) as failed:
        threads.run(fail, 3, how)
    _told(failed.value, r"^no heartbeat for 1 s: rank 1 runs outside any collective")
    assert "go_round" in failed.value.statuses[1].stack or how == "sleep"
    assert len(threads.run(gathers, 3, 2)) == 3


def _told(failure: RanksFailed, reason: str) -> None:
    text = str(failure)
    assert re.search(reason, failure.reason), failure.reason
    for rank in (0, 2):
        status = failure.statuses[rank]
        assert re.fullmatch(WAITS, status.detail)
        assert "in gathers" in status.stack
        assert f"rank {rank} waits in" in text
    assert "in fail" in failure.statuses[1].stack or failure.statuses[1].state == "finished"


def _waits_across_groups(rank: int, world_size: int) -> None:
    groups = [dist.new_group([0, 1]), dist.new_group([0, 1])]
    for group in groups if rank == 0 else reversed(groups):
        dist.all_gather(empty(2, 3), own(rank, 3), group=group)


def _both_receive(rank: int, world_size: int) -> None:
    dist.recv(torch.zeros(3), 1 - rank)


def _send_mismatched(rank: int, world_size: int) -> None:
    if rank:
        dist.send(own(rank, 3), 0)
    else:
        dist.recv(torch.zeros(4), 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_waits_across_groups, "deadlock: rank 0 waits in .* for rank 1; rank 1 waits in .* for rank 0"),
        (_both_receive, r"deadlock: rank 0 waits in recv\(\[3\] float32\) for rank 1; rank 1 waits in recv"),
        (_send_mismatched, r"disagree on what rank 0 receives from rank 1: .*\[4\] float32.*\[3\] float32"),
    ],
)
def test_a_deadlock_is_told_at_once(function: Any, reason: str) -> None:
    threads = Threads()
    start = time.monotonic()
    with pytest.raises(RanksFailed, match=reason):
        threads.run(function, 2)
    assert time.monotonic() - start < 5
    threads.close()


def test_every_exception_is_kept(threads: Threads) -> None:
    with pytest.raises(RanksFailed, match="rank 0 raised LookupError: here is rank 0; rank 1 raised") as failed:
        threads.run(every_rank_raises, 2)
    assert {rank: str(cause) for rank, cause in failed.value.causes.items()} == {
        0: "here is rank 0",
        1: "here is rank 1",
    }


def test_a_rank_whose_code_is_being_compiled_is_at_work(threads: Threads) -> None:
    assert [result.value for result in threads.run(compiles_for_long, 2, 3.0)] == [0, 1]


def test_a_heartbeat_keeps_a_slow_rank_going(threads: Threads) -> None:
    assert [result.value for result in threads.run(alive_and_slow, 2, 1.5)] == [0, 1]


def _alone_for_a_while(rank: int, world_size: int) -> tuple[str, str, str]:
    before = os.environ["RANK"]
    with environment_of_rank(0, 1):
        meanwhile = os.environ["WORLD_SIZE"]
    return before, meanwhile, os.environ["RANK"]


def test_a_rank_that_was_alone_for_a_while_is_itself_again(threads: Threads) -> None:
    assert [result.value for result in threads.run(_alone_for_a_while, 2)] == [("0", "1", "0"), ("1", "1", "1")]
