"""What ranks cost: a check on ranks that are there, the same with new processes each time, and runs on threads.

    python -m benchmarks.ranks [--spawns N]

Prints, from one run on one machine: seconds for a check of ten gathers on four gloo ranks that exist (median of 20);
seconds for the same with ``multiprocessing``'s spawn, which imports torch and sam3 in every rank each time (median of
N); runs a second of one gather on four threads; and cases a second of 50 gathers on eight threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from fixtures.ranks import Processes, Threads

WORLD_SIZE = 4
GATHERS = 10


def gathers(rank: int, world_size: int, count: int) -> None:
    """Gather ``count`` times, waiting on each handle after the next has been issued."""
    handles = []
    for number in range(count):
        tensor = torch.full((1, 5, 4), float(rank + number))
        outputs = [torch.empty_like(tensor) for _ in range(world_size)]
        handles.append(dist.all_gather(outputs, tensor, async_op=True))
    for handle in handles:
        handle.wait()


def spawned(rank: int, folder: str) -> None:
    """Be a rank that imports everything, gathers, and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no CUDA
        import sam3.model_builder  # noqa: F401

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), WORLD_SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE)
    gathers(rank, WORLD_SIZE, GATHERS)
    dist.destroy_process_group()


def spawn() -> None:
    """Run the check on new processes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=spawned, args=(rank, folder)) for rank in range(WORLD_SIZE)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    if any(rank.exitcode for rank in ranks):
        raise SystemExit("a spawned rank failed")


def seconds(call: Callable[[], object], times: int) -> float:
    """Give the median time of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spawns", type=int, default=3, help="how often to spawn processes (each takes long)")
    spawns = parser.parse_args().spawns

    processes = Processes()
    first = seconds(lambda: processes.run(gathers, WORLD_SIZE, GATHERS), 1)
    kept = seconds(lambda: processes.run(gathers, WORLD_SIZE, GATHERS), 20)
    processes.close()
    new = seconds(spawn, spawns)
    threads = Threads()
    threads.run(gathers, WORLD_SIZE, 1)
    short = seconds(lambda: threads.run(gathers, WORLD_SIZE, 1), 200)
    threads.run(gathers, 8, 1)
    long = seconds(lambda: threads.run(gathers, 8, 50), 20)
    threads.close()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores{load}, torch {torch.__version__}")
    print(f"4 gloo ranks, 10 gathers: {kept:.3f} s on ranks that exist ({first:.1f} s the first time)")
    print(f"4 gloo ranks, 10 gathers: {new:.1f} s with a spawn each time, torch and sam3 imported")
    print(f"4 threads, 1 gather:      {1 / short:.0f} runs a second")
    print(f"8 threads, 50 gathers:    {1 / long:.1f} cases a second")


if __name__ == "__main__":
    main()
