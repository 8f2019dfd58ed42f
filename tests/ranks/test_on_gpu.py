"""NCCL itself, on GPUs: all that cannot be tried without. Skipped where there is none."""

from __future__ import annotations

import pytest

from fixtures.ranks import Processes, gpus
from tests.commands import run_within
from tests.engine.gate import GATE
from tests.ranks.steps import reduces_on_its_gpu

GPUS = gpus.count()
pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(GPUS == 0, reason="there is no GPU here, which NCCL needs"),
]
WORLD_SIZE = min(GPUS, 2)


def test_ranks_reduce_on_their_own_gpus_and_send_what_they_have_on_the_cpu() -> None:
    ranks = Processes("nccl", preload=("torch",))
    try:
        values = [result.value for result in ranks.run(reduces_on_its_gpu, WORLD_SIZE)]
    finally:
        ranks.close()
    for rank, (total, device) in enumerate(values):
        assert device == f"cuda:{rank}"
        assert total.device.type == "cpu"
        assert total.tolist() == [WORLD_SIZE * (WORLD_SIZE + 1) / 2] * 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", ["schedule", "parity", "ddp"])
def test_the_reference_conforms_on_nccl(group: str) -> None:
    sizes = ("--backend", "nccl", "--world-sizes", str(WORLD_SIZE), "--launcher", "processes")
    done = run_within(800, *GATE, "--target", "reference", "--only", group, *sizes)
    assert done.status == pytest.ExitCode.OK, done.out
