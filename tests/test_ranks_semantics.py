"""Threads deliver what gloo delivers, for every collective that gloo has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ranks_steps import ASYNCHRONOUS, RESULTS, result_of, results_of

from fixtures.ranks import Processes, Threads

pytestmark = pytest.mark.xdist_group("processes")

WORLD_SIZES = (1, 2, 3)
#: Gloo has no all_to_all of lists, gathers into flat tensors only, and sends nothing to the sender.
NOT_ON_GLOO = {"all_to_all", "all_gather_into_tensor_stacked", "coalescing_manager"}
NOT_ALONE = {"send_and_receive", "batch_of_sends"}
NAMES = [name for name in (*ASYNCHRONOUS, *RESULTS) if name not in NOT_ON_GLOO]


def _names(world_size: int) -> list[str]:
    return [name for name in NAMES if world_size > 1 or name not in NOT_ALONE]


@pytest.fixture(scope="module")
def on_gloo() -> Iterator[dict[int, list[Any]]]:
    ranks = Processes(preload=("torch", "fixtures.ranks.rank_process"))
    try:
        yield {size: [result.value for result in ranks.run(results_of, size, _names(size))] for size in WORLD_SIZES}
    finally:
        ranks.close()


@pytest.fixture(scope="module")
def threads() -> Iterator[Threads]:
    ranks = Threads()
    yield ranks
    ranks.close()


@pytest.mark.parametrize(("name", "world_size"), [(name, size) for size in WORLD_SIZES for name in _names(size)])
def test_threads_deliver_what_gloo_delivers(
    name: str, world_size: int, threads: Threads, on_gloo: dict[int, list[Any]]
) -> None:
    for result in threads.run(result_of, world_size, name):
        assert _plain(result.value) == _plain(on_gloo[world_size][result.rank][name])


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
