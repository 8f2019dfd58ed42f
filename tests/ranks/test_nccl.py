"""The way with GPUs, on stand-ins for NCCL and for a GPU's tensors: what would be asked of them, and in which order."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from fixtures.ranks.collective_watch import CollectiveWatch
from fixtures.ranks.flight_record import FlightRecord
from fixtures.ranks.outcome import outcome_of
from fixtures.ranks.pickled import dumps, on_cpu
from tests.ranks.gpu_stand_in import on_gpu


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
