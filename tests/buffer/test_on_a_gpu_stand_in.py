"""Scans where a process computes on a GPU, with a stand-in for its tensors: none is left on the CPU, or goes astray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fixtures.ranks import Threads
from fixtures.ranks.pickled import on_cpu
from tests.ranks.gpu_stand_in import OnGpu, tensors_on_gpu, with_a_gpu
from verify.buffer.observation import Call, expected_answer, real_scan, scripted_scan
from verify.target.models import construction
from verify.target.naming import Target
from verify.video.detector import DETECTIONS
from verify.video.real import clip_of, precision_of, prompt_of, single_process
from verify.video.scan import Scan
from verify.video.scripting import first_answer


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        yield from _tensors(list(vars(value).values()))


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process with a GPU, for which the target's models are built anew."""
    remembered = (construction, precision_of, first_answer)
    for each in remembered:
        each.cache_clear()
    with_a_gpu(monkeypatch)
    yield
    for each in remembered:
        each.cache_clear()


def _on_the_stand_in(rank: int, world_size: int, scan: Any, target: Target, case: Scan) -> Any:
    with tensors_on_gpu():
        return scan(rank, world_size, target, case)


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_a_scan_computes_and_gathers_on_the_gpu(layout: str) -> None:
    ranks = Threads()
    case = Scan(frames=5, world_size=2, geometric=3, prompts=2, layout=layout, tracker=False, gather=False)
    try:
        results = ranks.run(_on_the_stand_in, 2, scripted_scan, Target("reference"), case)
    finally:
        ranks.close()
    for result in results:
        calls: tuple[Call, ...] = result.value
        assert result.collectives
        for call in calls:
            assert all(isinstance(call.answer[key], OnGpu) for key in DETECTIONS)
            sent = on_cpu(call)
            right = expected_answer(case, call.visit, case.own_rank(call.visit.frame, result.rank))
            assert all(torch.equal(sent.answer[key], right[key]) for key in DETECTIONS)


@pytest.mark.usefixtures("a_gpu")
def test_a_clip_for_the_real_detector_is_on_the_gpu() -> None:
    with tensors_on_gpu():
        clip = clip_of(Scan(frames=2, world_size=1, prompts=2, boxes=1))
        given = [*_tensors(clip), *_tensors([prompt_of(stage) for stage in clip.find_inputs])]
    assert len(given) > 20
    assert all(isinstance(tensor, OnGpu) for tensor in given)


def test_a_clip_without_a_gpu_is_on_the_cpu() -> None:
    given = list(_tensors(clip_of(Scan(frames=2, world_size=1))))
    assert given
    assert not any(isinstance(tensor, OnGpu) for tensor in given)


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("target", ["sam3", "reference"])
def test_the_real_detector_runs_on_the_gpu_as_in_a_single_process(target: str) -> None:
    case, ranks = Scan(frames=3, world_size=2, boxes=1), Threads()
    with tensors_on_gpu():
        alone = single_process(Target(target), case)
    assert not any(isinstance(tensor, OnGpu) for frame in alone for tensor in frame.values())
    try:
        results = ranks.run(_on_the_stand_in, 2, real_scan, Target(target), case)
    finally:
        ranks.close()
    for result in results:
        assert result.collectives
        for call in result.value:
            assert all(isinstance(call.answer[key], OnGpu) for key in DETECTIONS)
            sent = on_cpu(call.answer)
            assert all(torch.equal(sent[key], alone[call.visit.frame][key]) for key in DETECTIONS)
