"""What ranks do in the tests of ranks: functions that a process can import."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch.distributed.distributed_c10d import _coalescing_manager

from fixtures.ranks import progress

Tensors = list[torch.Tensor]
Started = tuple[Any, Tensors]


def own(rank: int, *shape: int) -> torch.Tensor:
    """Give a tensor whose numbers tell the rank and the place."""
    count = int(torch.tensor(shape).prod()) if shape else 1
    return (torch.arange(count, dtype=torch.float32) + 100 * (rank + 1)).reshape(shape)


def empty(count: int, *shape: int) -> Tensors:
    return [torch.zeros(shape) for _ in range(count)]


# ---- asynchronous calls: each gives a handle and the tensors that hold the result once it has been waited on


def all_gather(rank: int, world_size: int) -> Started:
    outputs = empty(world_size, 1, 5, 1)
    return dist.all_gather(outputs, own(rank, 1, 5, 1), async_op=True), outputs


def all_gather_transposed(rank: int, world_size: int) -> Started:
    outputs = empty(world_size, 5, 3)
    return dist.all_gather(outputs, own(rank, 3, 5).t().contiguous(), async_op=True), outputs


def all_gather_into_slices(rank: int, world_size: int) -> Started:
    whole = torch.zeros(world_size, 4)
    return dist.all_gather(list(whole), own(rank, 4), async_op=True), [whole]


def all_gather_into_tensor(rank: int, world_size: int) -> Started:
    output = torch.zeros(world_size * 2, 3)
    return dist.all_gather_into_tensor(output, own(rank, 2, 3), async_op=True), [output]


def all_gather_into_tensor_stacked(rank: int, world_size: int) -> Started:
    output = torch.zeros(world_size, 2, 3)
    return dist.all_gather_into_tensor(output, own(rank, 2, 3), async_op=True), [output]


def all_gather_coalesced(rank: int, world_size: int) -> Started:
    outputs = [[torch.zeros(2), torch.zeros(3)] for _ in range(world_size)]
    future = dist.all_gather_coalesced(outputs, [own(rank, 2), own(rank, 3) + 10], async_op=True)
    return future, [tensor for tensors in outputs for tensor in tensors]


def coalescing_manager(rank: int, world_size: int) -> Started:
    outputs = [torch.zeros(world_size, 2), torch.zeros(world_size, 3)]
    with _coalescing_manager(async_ops=True) as manager:
        dist.all_gather_into_tensor(outputs[0], own(rank, 2))
        dist.all_gather_into_tensor(outputs[1], own(rank, 3))
    return manager, outputs


def broadcast(rank: int, world_size: int) -> Started:
    tensor = own(rank, 3)
    return dist.broadcast(tensor, world_size - 1, async_op=True), [tensor]


def all_reduce(rank: int, world_size: int) -> Started:
    tensor = own(rank, 3)
    return dist.all_reduce(tensor, async_op=True), [tensor]


def all_reduce_max(rank: int, world_size: int) -> Started:
    tensor = own(rank, 3) * (-1) ** rank
    return dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), [tensor]


def all_reduce_product(rank: int, world_size: int) -> Started:
    tensor = own(rank, 2) % 7 + 1
    return dist.all_reduce(tensor, dist.ReduceOp.PRODUCT, async_op=True), [tensor]


def all_reduce_coalesced(rank: int, world_size: int) -> Started:
    tensors = [own(rank, 2), own(rank, 3)]
    return dist.all_reduce_coalesced(tensors, async_op=True), tensors


def reduce(rank: int, world_size: int) -> Started:
    tensor = own(rank, 3)
    return dist.reduce(tensor, 0, async_op=True), [tensor] if rank == 0 else []


def reduce_scatter(rank: int, world_size: int) -> Started:
    output = torch.zeros(2)
    return dist.reduce_scatter(output, [own(rank, 2) + n for n in range(world_size)], async_op=True), [output]


def reduce_scatter_tensor(rank: int, world_size: int) -> Started:
    output = torch.zeros(2)
    return dist.reduce_scatter_tensor(output, own(rank, world_size * 2), async_op=True), [output]


def gather(rank: int, world_size: int) -> Started:
    outputs = empty(world_size, 3) if rank == 0 else []
    return dist.gather(own(rank, 3), outputs or None, dst=0, async_op=True), outputs


def scatter(rank: int, world_size: int) -> Started:
    output = torch.zeros(3)
    inputs = [own(n, 3) for n in range(world_size)] if rank == 0 else None
    return dist.scatter(output, inputs, src=0, async_op=True), [output]


def all_to_all(rank: int, world_size: int) -> Started:
    # What rank r sends to rank n has n + 1 rows.
    outputs = [torch.zeros(rank + 1, 2) for _ in range(world_size)]
    return dist.all_to_all(outputs, [own(rank, n + 1, 2) for n in range(world_size)], async_op=True), outputs


def all_to_all_single(rank: int, world_size: int) -> Started:
    output = torch.zeros(world_size, 2)
    return dist.all_to_all_single(output, own(rank, world_size, 2), async_op=True), [output]


def all_to_all_single_split(rank: int, world_size: int) -> Started:
    sizes = [n + 1 for n in range(world_size)]
    output = torch.zeros((rank + 1) * world_size, 2)
    brought = own(rank, sum(sizes), 2)
    return dist.all_to_all_single(output, brought, [rank + 1] * world_size, sizes, async_op=True), [output]


def send_and_receive(rank: int, world_size: int) -> Started:
    output = torch.zeros(3)
    sent = dist.isend(own(rank, 3), (rank + 1) % world_size)
    received = dist.irecv(output, (rank - 1) % world_size)
    return _Both(received, sent), [output]


def batch_of_sends(rank: int, world_size: int) -> Started:
    output = torch.zeros(3)
    handles = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.irecv, output, (rank - 1) % world_size),
            dist.P2POp(dist.isend, own(rank, 3), (rank + 1) % world_size),
        ]
    )
    return _Both(*handles), [output]


class _Both:
    def __init__(self, *handles: Any) -> None:
        self._handles = handles

    def wait(self) -> None:
        for handle in self._handles:
            handle.wait()


ASYNCHRONOUS: dict[str, Callable[[int, int], Started]] = {
    call.__name__: call
    for call in (
        all_gather,
        all_gather_transposed,
        all_gather_into_slices,
        all_gather_into_tensor,
        all_gather_into_tensor_stacked,
        all_gather_coalesced,
        coalescing_manager,
        broadcast,
        all_reduce,
        all_reduce_max,
        all_reduce_product,
        all_reduce_coalesced,
        reduce,
        reduce_scatter,
        reduce_scatter_tensor,
        gather,
        scatter,
        all_to_all,
        all_to_all_single,
        all_to_all_single_split,
        send_and_receive,
        batch_of_sends,
    )
}


# ---- calls that give their result themselves


def all_gather_object(rank: int, world_size: int) -> Any:
    objects: list[Any] = [None] * world_size
    dist.all_gather_object(objects, {"rank": rank, "text": "x" * (10 * rank)})
    return objects


def gather_object(rank: int, world_size: int) -> Any:
    objects = [None] * world_size if rank == 0 else None
    dist.gather_object(("from", rank), objects, dst=0)
    return objects


def broadcast_object_list(rank: int, world_size: int) -> Any:
    objects = [f"rank {rank}", rank]
    dist.broadcast_object_list(objects, src=world_size - 1)
    return objects


def scatter_object_list(rank: int, world_size: int) -> Any:
    objects: list[Any] = [None]
    dist.scatter_object_list(objects, [f"for {n}" for n in range(world_size)], src=0)
    return objects


def send_then_receive(rank: int, world_size: int) -> Any:
    tensor = own(rank, 2)
    if rank % 2 == 0 and rank + 1 < world_size:
        dist.send(tensor, rank + 1, tag=7)
    elif rank % 2:
        tensor = torch.zeros(2)
        return dist.recv(tensor, rank - 1, tag=7), tensor
    return tensor


def receive_from_any(rank: int, world_size: int) -> Any:
    if rank:
        dist.send(own(rank, 2), 0)
        return None
    received = {}
    for _ in range(world_size - 1):
        tensor = torch.zeros(2)
        received[dist.recv(tensor)] = tensor
    return sorted(received.items())


def barrier(rank: int, world_size: int) -> Any:
    dist.barrier()
    return dist.barrier(async_op=True).wait()


def groups_of_two(rank: int, world_size: int) -> Any:
    mine = None
    for first in range(0, world_size, 2):
        ranks = list(range(first, min(first + 2, world_size)))
        group = dist.new_group(ranks)
        if rank in ranks:
            mine = group
    outputs = empty(dist.get_world_size(mine), 2)
    dist.all_gather(outputs, own(rank, 2), group=mine)
    tensor = own(rank, 2)
    dist.broadcast(tensor, rank - rank % 2, group=mine)
    return outputs, tensor, dist.get_rank(mine), dist.get_process_group_ranks(mine)


def gather_with_gradient(rank: int, world_size: int) -> Any:
    tensor = own(rank, 2).requires_grad_()
    gathered = differentiable.all_gather(tensor)
    sum((part * (n + 1) * (rank + 1)).sum() for n, part in enumerate(gathered)).backward()
    return [part.detach() for part in gathered], tensor.grad


def reduce_with_gradient(rank: int, world_size: int) -> Any:
    tensor = own(rank, 2).requires_grad_()
    total = differentiable.all_reduce(tensor)
    (total * (rank + 1)).sum().backward()
    return total.detach(), tensor.grad


def functional_collectives(rank: int, world_size: int) -> Any:
    """Gather and reduce by the operators that compiled code uses; before it is waited on, the result is poison."""
    gathered = torch.ops._c10d_functional.all_gather_into_tensor(
        own(rank, 2, 3), world_size, dist.group.WORLD.group_name
    )
    early = gathered.clone()
    torch.ops._c10d_functional.wait_tensor(gathered)
    total = torch.ops._c10d_functional.all_reduce(own(rank, 2), "sum", dist.group.WORLD.group_name)
    return early, gathered, torch.ops._c10d_functional.wait_tensor(total)


def environment(rank: int, world_size: int) -> Any:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")
    seen = {name: os.environ[name] for name in names}
    assert {name: os.getenv(name) for name in names} == seen
    assert {**os.environ}.items() >= seen.items()
    assert all(name in os.environ for name in names)
    assert (dist.is_initialized(), dist.get_rank(), dist.get_world_size()) == (True, rank, world_size)
    return seen


RESULTS: dict[str, Callable[[int, int], Any]] = {
    call.__name__: call
    for call in (
        all_gather_object,
        gather_object,
        broadcast_object_list,
        scatter_object_list,
        send_then_receive,
        receive_from_any,
        barrier,
        groups_of_two,
        gather_with_gradient,
        reduce_with_gradient,
        environment,
    )
}


def result_of(rank: int, world_size: int, name: str) -> Any:
    """Give what a call delivers to the rank, waited for."""
    if name in RESULTS:
        return RESULTS[name](rank, world_size)
    handle, outputs = ASYNCHRONOUS[name](rank, world_size)
    handle.wait()
    return outputs


def results_of(rank: int, world_size: int, names: list[str]) -> dict[str, Any]:
    return {name: result_of(rank, world_size, name) for name in names}


# ---- failures


def gathers(rank: int, world_size: int, count: int) -> float:
    total = 0.0
    for _ in range(count):
        outputs = empty(world_size, 1, 5, 1)
        dist.all_gather(outputs, own(rank, 1, 5, 1))
        total += sum(float(output.sum()) for output in outputs)
    return total


def fail(rank: int, world_size: int, how: str, culprit: int = 1) -> None:
    """Gather twice; then ``culprit`` fails, and the others go on to gather once more."""
    gathers(rank, world_size, 2)
    if rank == culprit:
        match how:
            case "exception":
                raise ValueError("the culprit's own words")
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "skip":
                return
            case "shape":
                dist.all_gather(empty(world_size, 3), own(rank, 3))
            case "dtype":
                dist.all_gather([torch.zeros(1, 5, 1, dtype=torch.int64)] * world_size, own(rank, 1, 5, 1).long())
            case "operation":
                dist.broadcast(own(rank, 1, 5, 1), 0)
            case "loop":
                go_round()
            case "sleep":
                time.sleep(3600)
    gathers(rank, world_size, 1)


def go_round() -> None:
    while True:
        pass


def every_rank_raises(rank: int, world_size: int) -> None:
    raise LookupError(f"here is rank {rank}")


def alive_and_slow(rank: int, world_size: int, seconds: float) -> int:
    """Take longer than a hang may, and say so all the while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        progress()
    return rank


def compiles_for_long(rank: int, world_size: int, seconds: float) -> int:
    """Be in torch's compiler for longer than a hang may take, as far as the stack tells; then meet the others."""
    if rank == 0:
        code = compile(f"import time; time.sleep({seconds})", "site-packages/torch/_dynamo/convert_frame.py", "exec")
        exec(code, {})
    dist.barrier()
    return rank


def sleeps_with_its_watcher(rank: int, world_size: int, watcher: int, seconds: float) -> int:
    """Stop this process and its watcher, as a machine that is paused does; they go on after ``seconds``."""
    if rank == 0:
        time.sleep(0.5)  # until the watcher has looked
        stopped = sorted({watcher, os.getpid()})
        wakes = subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {' '.join(map(str, stopped))}"])
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        time.sleep(0.5)  # awake, and not yet done
        wakes.wait()
    dist.barrier()
    return rank


def leaves_something_in_flight(rank: int, world_size: int) -> None:
    if rank == 0:
        dist.all_gather(empty(world_size, 3), own(rank, 3), async_op=True)


def destroys_its_group(rank: int, world_size: int) -> None:
    dist.barrier()
    dist.destroy_process_group()


def process_id(rank: int, world_size: int) -> int:
    return os.getpid()


def print_and_die(rank: int, world_size: int, text: str) -> None:
    """Print, from Python and from below it; rank 0 then leaves the process at once."""
    print(f"{text} of rank {rank}")
    os.write(2, b"from below\n")
    if rank == 0:
        os._exit(3)


def print_line(rank: int, world_size: int, text: str) -> None:
    print(text)


def asked_of_nccl(rank: int, world_size: int) -> tuple[list[tuple[str, Any]], str | None, float]:
    """What the rank has asked of the stand-in for NCCL, which GPUs it sees, and a sum over the ranks."""
    from tests.ranks import nccl_stand_in

    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    return nccl_stand_in.ASKED, os.environ.get("CUDA_VISIBLE_DEVICES"), float(total)


def reduces_on_its_gpu(rank: int, world_size: int) -> tuple[torch.Tensor, str]:
    """A sum over the ranks, as a tensor of the rank's GPU, and which GPU that is."""
    total = torch.full((2,), float(rank + 1), device="cuda")
    dist.all_reduce(total)
    return total, str(total.device)
