"""NCCL on a machine without a GPU, for a process that imports this: it is asked as NCCL would be, and gloo answers.

Two GPUs are counted, where they are not hidden, and none is available.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

#: What was asked for, in order: each a name and what came with it.
ASKED: list[tuple[str, Any]] = []
_make = dist.init_process_group


def _init_process_group(backend: str, *args: Any, device_id: Any = None, **kwargs: Any) -> None:
    ASKED.append(("init_process_group", (backend, device_id)))
    _make("gloo" if backend == "nccl" else backend, *args, **kwargs)


def _set_device(device: Any) -> None:
    ASKED.append(("set_device", device))


def _device_count() -> int:
    return 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else 2


dist.init_process_group = _init_process_group
torch.cuda.device_count = _device_count
torch.cuda.set_device = _set_device
ASKED.append(("imported, seeing", os.environ.get("CUDA_VISIBLE_DEVICES")))
