"""What computes on GPUs where there are some, and what on the CPU all the same; with stand-ins for GPUs and NCCL."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from fixtures.ranks import Processes, RankResult, Threads, gpus
from fixtures.ranks.environment import rank_environment
from fixtures.ranks.single import a_rank_on_a_gpu, compared_with, in_single_process
from tests.commands import torchrun
from verify.engine.check import PROCESSES, THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.options import UsageError
from verify.engine.profile import Profile
from verify.engine.result import PASSED, SKIPPED
from verify.groups import PRELOADED, registered
from verify.start import choose_device
from verify.target.naming import Target
from verify.tensors.precision import computing_in, without_tf32
from verify.video.real import single_process
from verify.video.scan import Scan

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
FEW = Profile("few", examples=2, process_examples=1, shrink_seconds=0.1)


class OnNccl:
    """Ranks that say they are on NCCL, and run one of them here."""

    name = "nccl"

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []

    def world_sizes(self) -> range:
        return range(1, 3)

    def run(self, function: Any, world_size: int, *args: Any, ranks_per_node: int | None = None) -> list[RankResult]:
        self.ran.append((function.__name__, world_size))
        return [RankResult(0, function(0, world_size, *args), ())]

    def close(self) -> None:
        pass


def _state() -> tuple[Any, ...]:
    new = (MATMUL.fp32_precision, CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision)  # type: ignore[attr-defined]
    return (MATMUL.allow_tf32, CUDNN.allow_tf32, *new)


@pytest.fixture
def with_tf32(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process with a GPU in which sam3 has been imported."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = (MATMUL.allow_tf32, CUDNN.allow_tf32)
    MATMUL.allow_tf32 = CUDNN.allow_tf32 = True
    yield
    MATMUL.allow_tf32, CUDNN.allow_tf32 = before


@pytest.mark.usefixtures("with_tf32")
def test_what_is_computed_on_a_gpu_is_without_tf32() -> None:
    before = _state()
    assert before[:2] == (True, True)
    with computing_in(torch.float32):
        assert _state() == (False, False, "ieee", "ieee", "ieee")
    assert _state() == before


@pytest.mark.usefixtures("with_tf32")
def test_tf32_is_off_however_it_was_turned_on() -> None:
    MATMUL.fp32_precision = "tf32"
    CUDNN.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
    with without_tf32():
        assert _state() == (False, False, "ieee", "ieee", "ieee")
    assert _state() == (True, True, "tf32", "tf32", "tf32")


def test_nothing_is_set_without_a_gpu() -> None:
    before = _state()
    with without_tf32():
        assert _state() == before


def test_a_single_process_computes_where_the_ranks_do_that_it_is_compared_with() -> None:
    ranks, case = OnNccl(), Scan(frames=1, world_size=1, gather=False)
    here = single_process(Target("reference"), case)
    assert not ranks.ran
    with compared_with(ranks):
        there = single_process(Target("reference"), case)
        assert a_rank_on_a_gpu() is ranks
    assert ranks.ran == [("_detected_alone", 1)]
    assert torch.equal(here[0]["pred_logits"], there[0]["pred_logits"])
    with compared_with(Threads()):
        assert a_rank_on_a_gpu() is None
        assert in_single_process(lambda rank, world_size, value: value + 1, 2) == 3
    assert a_rank_on_a_gpu() is None


def test_what_is_compared_with_ranks_on_nccl_is_computed_on_them() -> None:
    ranks, launchers, check = OnNccl(), Launchers("nccl"), registered()["test_parity_detections"]
    seen: list[Any] = []
    launchers._made["nccl"] = ranks

    def body(case: Any, observe: Any, target: Any) -> None:
        seen.append(a_rank_on_a_gpu())

    gate = Gate(Target("reference"), launchers, FEW, process_world_sizes=(2,))
    assert gate.judge(replace(check, body=body), PROCESSES).outcome == PASSED
    assert seen == [ranks]
    assert a_rank_on_a_gpu() is None


@pytest.mark.xdist_group("processes")
def test_the_gate_judges_on_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 2)
    launchers, checks = Launchers("nccl", preload=(*PRELOADED, "tests.ranks.nccl_stand_in")), registered()
    gate = Gate(Target("reference"), launchers, FEW, process_world_sizes=(2,))
    ranks = launchers.get(PROCESSES)
    ran: list[tuple[str, int]] = []
    run = ranks.run

    def noting(function: Any, world_size: int, *args: Any, **options: Any) -> list[RankResult]:
        ran.append((function.__name__, world_size))
        return run(function, world_size, *args, **options)

    monkeypatch.setattr(ranks, "run", noting)
    try:
        for check in ("test_coverage", "test_parity_detections", "test_ddp_gradients"):
            result = gate.judge(checks[check], PROCESSES)
            assert result.outcome == PASSED, result
    finally:
        launchers.close()
    assert {("scripted_scan", 2), ("real_scan", 2), ("_detected_alone", 1), ("train", 2), ("_train_alone", 1)} == set(
        ran
    )


@pytest.mark.xdist_group("processes")
def test_torchruns_ranks_judge_on_nccl() -> None:
    gate = ("-m", "pytest", "verify", "-p", "no:cacheprovider", "-p", "tests.ranks.nccl_stand_in", "-v")
    only = ("--only", "test_coverage,test_trainer_runs", "--target", "reference")
    done = torchrun(2, *gate, *only, "--backend", "nccl")
    assert done.status == pytest.ExitCode.OK, done.out
    assert re.search(r"test_coverage +passed", done.out), done.out
    assert "skipped: test_trainer_runs: it is judged on the CPU" in done.out


def test_the_trainer_runs_on_gloo_whatever_the_backend_is() -> None:
    launchers, checks = Launchers("nccl"), registered()
    gate = Gate(Target("reference"), launchers)
    on_gpus = {
        check.group for check in checks.values() for name in check.launchers if gate.ranks(check, name).name == "nccl"
    }
    assert on_gpus == {"schedule", "parity", "ddp"}
    trainer = [check for check in checks.values() if check.group == "trainer"]
    assert {gate.ranks(check, PROCESSES).name for check in trainer} == {"gloo"}
    assert isinstance(gate.ranks(trainer[0], PROCESSES), Processes)
    launchers.close()


def test_a_finding_on_nccl_is_shown_again_on_nccl() -> None:
    checks = registered()
    gate = Gate(Target("reference"), Launchers("nccl"))
    assert gate.options(checks["test_coverage"], PROCESSES) == "--target reference --backend nccl"
    assert gate.options(checks["test_coverage"], THREADS) == "--target reference"
    assert gate.options(checks["test_trainer_runs"], PROCESSES) == "--target reference"
    assert Gate(Target("reference"), Launchers()).options(checks["test_coverage"], PROCESSES) == "--target reference"


def test_a_rank_on_a_gpu_judges_nothing_that_is_judged_on_the_cpu() -> None:
    checks, launchers = registered(), Launchers("nccl", job=OnNccl())  # type: ignore[arg-type]
    gate = Gate(Target("reference"), launchers, bases=checks)
    for check, launcher in (("test_step_runs", THREADS), ("test_trainer_runs", PROCESSES), ("test_coverage", THREADS)):
        result = gate.judge(checks[check], launcher)
        assert result.outcome == SKIPPED
        assert "run it with --backend gloo" in result.reason
    assert gate._blocked(checks["test_ddp_gradients"]) is None  # though what it rests on is not judged here


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The GPUs that this process takes, on a machine with two of which none is hidden yet."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch.cuda.device_count() > 0)
    monkeypatch.delenv("SAM3_VIDEO_VERIFY_HIDDEN_GPUS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return devices


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_the_process_that_judges_sees_no_gpu(backend: str, taken: list[torch.device]) -> None:
    choose_device(backend)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert gpus.count() == 2
    assert not taken


def test_gpus_that_cannot_be_hidden_are_refused(taken: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as CUDA had been asked before
    with pytest.raises(UsageError, match="set CUDA_VISIBLE_DEVICES to nothing"):
        choose_device("gloo")


def test_a_rank_of_torchrun_on_nccl_takes_its_gpu_before_anything_is_built(
    taken: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.hide()  # as whatever started it may have done
    for name, value in rank_environment(3, 4, ranks_per_node=2).items():
        monkeypatch.setenv(name, value)
    choose_device("nccl")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert taken == [torch.device("cuda", 1)]
    taken.clear()
    choose_device("gloo")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not taken
