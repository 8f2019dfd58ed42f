"""Whose memory is still alive: tensors are watched by their storages, which their views and detached copies share."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from fixtures.synthetic.script import INTERACTIVE, TRACKER
from fixtures.synthetic.scripted_detector import Detected
from verify.video.detector import DETECTIONS, features_of


class Watched:
    """Memory of frames, watched and not kept."""

    def __init__(self) -> None:
        self._memory: list[tuple[frozenset[int], list[StorageWeakRef]]] = []

    def watch(self, frames: Iterable[int], tensors: Iterable[Any]) -> None:
        storages = [StorageWeakRef(each.untyped_storage()) for each in tensors if isinstance(each, torch.Tensor)]
        self._memory.append((frozenset(frames), storages))

    def alive(self, chunk_size: int, resident: Collection[int]) -> frozenset[int]:
        """The frames with memory alive whose whole chunk has left the buffer: within one, frames may share memory."""
        held: set[int] = set()
        for frames, storages in self._memory:
            gone = {frame for frame in frames if frame // chunk_size not in resident}
            if gone and not all(storage.expired() for storage in storages):
                held |= gone
        return frozenset(held)


def of_answer(answer: Mapping[str, Any]) -> list[Any]:
    """The tensors of an answer that are its frame's own. All frames may share a position encoding."""
    features = [features_of(answer, neck) for neck in (TRACKER, INTERACTIVE)]
    levels = [level for found in features for name, level in found.items() if name.startswith("fpn")]
    return [*(answer[key] for key in DETECTIONS if key in answer), *(_plain(level) for level in levels)]


def _of_output(found: Mapping[str, Any]) -> list[Any]:
    """The same of the scripted detector's output."""
    necks = found["prev_encoder_out"]["backbone_out"]
    levels = [
        level for neck in ("sam2_backbone_out", "interactive") for level in (necks[neck] or {}).get("backbone_fpn", ())
    ]
    return [*(found[key] for key in DETECTIONS), *(_plain(level) for level in levels)]


def _plain(level: Any) -> Any:
    """A level of features as a tensor, where it comes with a mask as well."""
    return getattr(level, "tensors", level)


def watch_detector(model: Any, detected: Sequence[Detected]) -> Watched:
    """Watch what a model's scripted detector gives from now on, which appends what it detects to ``detected``."""
    watched, forward = Watched(), model.forward_grounding

    def forward_grounding(*args: Any, **kwargs: Any) -> Any:
        before = len(detected)
        found = forward(*args, **kwargs)
        watched.watch((one.frame for one in detected[before:]), _of_output(found))
        return found

    object.__setattr__(model, "forward_grounding", forward_grounding)
    return watched


def held_after(
    answers: Watched, outputs: Watched, chunk_size: int, resident: Iterable[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Frames whose answers, and whose outputs of the detector, are alive though their chunks have left the buffer."""
    chunks = {frame // chunk_size for frame in resident}

    def held() -> tuple[frozenset[int], frozenset[int]]:
        detected = outputs.alive(chunk_size, chunks)
        # A rank may keep what it has detected last, which is of one chunk: with it, those past the clip's end idle.
        several = len({frame // chunk_size for frame in detected}) > 1
        return answers.alive(chunk_size, chunks), detected if several else frozenset()

    if any(held()):  # perhaps in a cycle of references only; collecting takes longer than the scan
        gc.collect()
    return held()
