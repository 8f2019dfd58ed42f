"""The way with GPUs, on stand-ins for NCCL and for a GPU's tensors: what would be asked of them, and in which order."""

from __future__ import annotations

import os
import pickle
import socket
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fixtures.ranks import Processes, RendezvousError, Threads, Torchrun, gpus
from fixtures.ranks.collective_watch import CollectiveWatch
from fixtures.ranks.environment import rank_environment
from fixtures.ranks.flight_record import FlightRecord
from fixtures.ranks.outcome import outcome_of
from fixtures.ranks.pickled import dumps, on_cpu
from fixtures.toy.build import Construction, build_toy
from tests.ranks.gpu_stand_in import OnGpu, on_gpu, tensors_on_gpu
from tests.ranks.steps import asked_of_nccl, leaves_something_in_flight

pytestmark = pytest.mark.xdist_group("processes")
STAND_IN = "tests.ranks.nccl_stand_in"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, of which this process sees none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("SAM3_VIDEO_VERIFY_HIDDEN_GPUS", raising=False)
    gpus.hide()


def test_results_come_back_on_the_cpu() -> None:
    values = torch.arange(6.0).view(2, 3)
    sent = {"a": on_gpu(values), "b": [on_gpu(values.T)], "same": values, "gradient": on_gpu(values).requires_grad_()}
    with pytest.raises(RuntimeError, match="sent as a tensor of a GPU"):
        pickle.dumps(sent)  # the stand-in is as a GPU's tensor is
    received = pickle.loads(dumps(sent))
    assert all(type(tensor) is torch.Tensor for tensor in (received["a"], received["b"][0], received["gradient"]))
    assert torch.equal(received["a"], values)
    assert torch.equal(received["b"][0], values.T)
    assert received["gradient"].requires_grad
    assert not received["a"].requires_grad
    assert on_cpu((on_gpu(values), "text"))[1] == "text"


def test_a_rank_sends_its_result_on_the_cpu(tmp_path: Path) -> None:
    watch = CollectiveWatch(FlightRecord(tmp_path, 0))
    outcome, error = outcome_of(lambda: {"answer": on_gpu(torch.ones(2))}, watch)
    assert error is None
    assert torch.equal(pickle.loads(outcome.value)["answer"], torch.ones(2))


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_hidden_and_counted() -> None:
    assert torch.cuda.device_count() == 0
    assert gpus.count() == 2
    gpus.hide()  # a process that is started from this one does so, too
    assert gpus.count() == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    with gpus.shown():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


def test_all_gpus_are_shown_where_none_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SAM3_VIDEO_VERIFY_HIDDEN_GPUS", raising=False)
    gpus.hide()
    with gpus.shown():
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.usefixtures("two_gpus")
def test_ranks_on_nccl_are_started_anew_each_on_its_own_gpu() -> None:
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    ranks = Processes("nccl", preload=(STAND_IN,))
    assert list(ranks.world_sizes()) == [1, 2]
    try:
        for _ in range(2):
            values = [result.value for result in ranks.run(asked_of_nccl, 2)]
    finally:
        ranks.close()
    for rank, (asked, visible, total) in enumerate(values):
        device = torch.device("cuda", rank)
        assert asked == [
            ("imported, seeing", "4,7"),
            ("set_device", device),
            ("init_process_group", ("nccl", device)),
        ]
        assert visible == "4,7"  # in the second run, too, though the job's environment is that of a process without
        assert total == 3
    assert forkserver._forkserver._forkserver_pid == server  # type: ignore[attr-defined]


def test_no_rank_runs_on_nccl_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="world size 1 is not one that these ranks can run: none at all, for want of"):
        Processes("nccl").run(asked_of_nccl, 1)


def _rank_on_a_node_of_its_own(rank: int, port: int, output: Path) -> None:
    """Be one rank of two, each alone on its node."""
    os.environ.update(rank_environment(rank, 2, ranks_per_node=1), MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    from tests.ranks import nccl_stand_in  # noqa: F401 - answers in place of NCCL from here on

    ranks = Torchrun("nccl")
    ranks.run(leaves_something_in_flight, 2)  # after which there has to be another group
    results = ranks.run(asked_of_nccl, 2)
    ranks.close()
    output.write_bytes(pickle.dumps([result.value for result in results]))


def test_torchruns_ranks_take_the_gpu_of_their_number_on_their_node(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [tmp_path / f"rank-{rank}" for rank in range(2)]
    context = get_context("spawn")
    ranks = [
        context.Process(target=_rank_on_a_node_of_its_own, args=(rank, port, output), daemon=True)
        for rank, output in enumerate(outputs)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    made = ("init_process_group", ("nccl", torch.device("cuda", 0)))
    for output in outputs:
        for asked, _, total in pickle.loads(output.read_bytes()):
            assert asked[1:] == [("set_device", torch.device("cuda", 0)), made, made]
            assert total == 3


def test_torchruns_ranks_are_not_on_nccl_without_a_number_on_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rank_environment(1, 2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(RendezvousError, match="LOCAL_RANK is 'not set': start the ranks with torchrun"):
        Torchrun("nccl")


def test_ranks_that_are_threads_compute_on_the_gpu_of_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)  # of this thread; a new one's is 0
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    ranks = Threads()
    try:
        assert [result.value for result in ranks.run(lambda rank, world_size: rank, 2)] == [0, 1]
    finally:
        ranks.close()
    assert taken == [1, 1]


class _Moved(nn.Module):
    """A module that notes where it is moved."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.places: list[str] = []

    def to(self, device: torch.device) -> _Moved:  # type: ignore[override]
        self.places.append(device.type)
        return self


@pytest.mark.parametrize("there_is_one", [True, False])
def test_what_a_class_makes_itself_is_on_the_gpu_as_well(there_is_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    expected = ["cuda"] if there_is_one else []
    assert Construction(_Moved(), (), {}, (), ()).again().places == expected  # type: ignore[comparison-overlap]
    # A builder need not take a device.
    assert build_toy(lambda eval_mode: _Moved(), eval_mode=True).model.places == expected  # type: ignore[comparison-overlap]


def test_a_toy_leaves_the_generators_of_other_ranks_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    build_toy(lambda eval_mode: _Moved(), eval_mode=True)
    assert asked == [2]


def _collectives(rank: int, world_size: int) -> tuple[bool, bool, bool, torch.Tensor]:
    """Collectives of tensors of the stand-in, one of them read too early.

    None has its input changed, or is of truths: torch.distributed calls the group where the stand-in is not told apart.
    """
    with tensors_on_gpu():
        total = torch.full((3,), rank + 1.0, device="cuda")
        handle = dist.all_reduce(total, async_op=True)
        early = bool(total.isnan().all())
        handle.wait()
        numbers, outputs = torch.full((2,), float(rank), device="cuda"), [torch.empty(2, device="cuda") for _ in "ab"]
        dist.all_gather(outputs, numbers)
        on_it = all(isinstance(tensor, OnGpu) for tensor in (total, *outputs))
        return early, on_it, [float(output[0]) for output in outputs] == [0, 1], total.cpu()


def test_a_group_of_threads_takes_tensors_of_a_gpu() -> None:
    ranks = Threads()
    try:
        results = ranks.run(_collectives, 2)
    finally:
        ranks.close()
    for result in results:
        early, on_it, gathered, total = result.value
        assert (early, on_it, gathered) == (True, True, True)
        assert total.tolist() == [3, 3, 3]
        assert [entry.describe() for entry in result.collectives] == [
            "all_reduce([3] float32)",
            "all_gather([2] float32)",
        ]


def test_ranks_on_nccl_have_longer_for_they_compile_kernels() -> None:
    assert Processes("nccl").patience == 4 * Processes().patience == 60
    assert Processes("nccl", patience=2).patience == 2
