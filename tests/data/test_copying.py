"""A dataset is copied as it is for a worker, but for what cannot be copied."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from types import SimpleNamespace

from verify.data.copying import worker_copy


def test_what_cannot_be_copied_is_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        inner = SimpleNamespace(lock=threading.Lock(), held=[file, {"map": mapped}], frames=[1, 2])
        dataset = SimpleNamespace(loader=inner, again=inner, epoch=3)
        copied = worker_copy(dataset)
    assert copied.epoch == 3
    assert copied.loader is copied.again is not inner
    assert copied.loader.frames == [1, 2]
    assert copied.loader.frames is not inner.frames
    assert copied.loader.lock is inner.lock
    assert copied.loader.held is not inner.held
    assert copied.loader.held[0] is file
    assert copied.loader.held[1]["map"] is mapped


def test_what_refuses_to_be_copied_is_shared() -> None:
    class Refuses:
        def __deepcopy__(self, memo: object) -> object:
            raise RuntimeError("there is one of me")

    refuses = Refuses()
    assert worker_copy(refuses) is refuses
    assert worker_copy([refuses])[0] is refuses
