"""The target's buffer around a scripted detector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.synthetic.script import Script
from fixtures.synthetic.scripted_detector import (
    Detected,
    Playing,
    numbered_images,
    numbered_prompt,
    numbered_text,
    scripted_forward,
    stages,
    why_no_stage,
)
from verify.target.naming import Target
from verify.video.call import call_buffer
from verify.video.detector import detector, is_batched, why_no_buffer
from verify.video.scan import Scan, Visit, number_of_frame

#: Gives what a caller hands over with a visit.
InputsOf = Callable[[Visit], dict[str, Any]]
#: The number of a geometric prompt that a batched buffer is handed and has no use for: each frame has its own.
UNUSED = 15


def scripted_detector(
    target: Target,
    case: Scan,
    scripts: Sequence[Script],
    rank: int,
    calls: list[Detected],
    playing: Playing | None = None,
) -> nn.Module:
    """The target's detector with a scripted ``forward_grounding``; each frame detected is appended to ``calls``.

    There is a script for each video that the model is called for, and ``playing`` says for which it is.
    """
    model = detector(target, case)
    model.training = False  # eval() would walk through all parts, which are scripted away
    object.__setattr__(model, "forward_grounding", scripted_forward(scripts, rank, calls, playing or Playing()))
    return model


def scripted_inputs(target: Target, case: Scan, visits: tuple[Visit, ...]) -> dict[Visit, dict[str, Any]]:
    """What a caller hands over with each visit, beside the images' dictionary, which it makes anew for each call.

    Callers keep one prompt object, the same text tensors and the same stages for a scan. A chunked buffer is told the
    prompt by argument, a batched one by each frame's stage.
    """
    stages_of: dict[tuple[int, ...], list[Any]] = {}
    prompts: dict[int, Any] = {}
    texts: dict[int, Any] = {}
    made = {}
    for visit in visits:
        numbers = case.numbers(visit) if is_batched(target) else ()
        given = _another_number(visit.geometric) if is_batched(target) else visit.geometric
        if numbers not in stages_of:
            stages_of[numbers] = stages(case.frames, case.rows, numbers, case.asked_texts)
        if given not in prompts:
            prompts[given] = numbered_prompt(case.rows, given)
        if visit.text not in texts:
            texts[visit.text] = numbered_text(case.prompts, visit.text)
        made[visit] = {
            "find_inputs": stages_of[numbers],
            "geometric_prompt": prompts[given],
            "text": texts[visit.text],
        }
    return made


def _another_number(number: int) -> int:
    return UNUSED if number != UNUSED else number_of_frame(0)


def script_of(case: Scan) -> Script:
    """What the scripted detector answers in a case."""
    return Script(case.prompts, case.layout, case.tracker, case.seed, case.at_thresholds, case.by_pixels)


def scripted(rank: int, target: Target, case: Scan, detected: list[Detected]) -> tuple[Any, InputsOf]:
    """A rank's model with the scripted detector, and what its caller hands over."""
    return scripted_detector(target, case, [script_of(case)], rank, detected), caller_of(target, case)


def caller_of(target: Target, case: Scan, video: int = 0) -> InputsOf:
    """What a caller hands over, made for a video of this number."""
    images = numbered_images(case.frames, video)
    inputs = scripted_inputs(target, case, case.calls())
    only = copy.deepcopy(inputs[case.calls()[0]]) if case.in_place else {}

    def inputs_of(visit: Visit) -> dict[str, Any]:
        given = dict(_written_into(only, inputs[visit]) if case.in_place else inputs[visit])
        return {"backbone_out": {"img_batch_all_stages": images, **given.pop("text")}, **given}

    return inputs_of


def _written_into(held: Any, new: Any) -> Any:
    """Make what a caller holds say what ``new`` says, in place as far as shapes agree."""
    if isinstance(held, torch.Tensor) and isinstance(new, torch.Tensor):
        return held.copy_(new) if held.shape == new.shape else new.clone()
    if isinstance(held, dict):
        held.update({key: _written_into(held[key], value) for key, value in new.items()})
    elif isinstance(held, list):
        held[:] = [_written_into(*pair) for pair in zip(held, new, strict=True)]
    elif hasattr(held, "__dict__"):
        _written_into(held.__dict__, new.__dict__)
    else:
        return new
    return held


def only_frame(target: Target) -> Scan:
    """The simplest case: the only frame of a clip, on one rank."""
    return Scan(frames=1, world_size=1, gather=False, batch=int(is_batched(target)))


@lru_cache(maxsize=8)
def answers_by_itself(target: Target, listed: bool = False) -> bool:
    """Whether the target's buffer answers for the only frame of a clip with the target's own detector.

    Args:
        listed: whether it is given the images in a list.
    """
    from verify.video import real  # which asks here whether a stand-in can be used

    case = replace(only_frame(target), listed=listed)

    def visit_one_frame(rank: int, world_size: int) -> None:
        with real.as_called(target):
            model = real.real_detector(target, case)
            inputs = real.inputs_of_clip(model, real.clip_of(case), listed)
            call_buffer(target, model, case, Visit(0), inputs(), {})

    ranks = Threads()
    try:
        ranks.run(visit_one_frame, 1)
    except RanksFailed:
        return False
    finally:
        ranks.close()
    return True


@lru_cache(maxsize=8)
def first_answer(target: Target) -> Mapping[str, Any] | str:
    """What the target's buffer answers for the only frame of a clip, with a scripted detector; in words why it cannot.

    A buffer that does not detect through ``self.forward_grounding`` answers without calling the stand-in. One that
    fails before it calls it, and with the target's own detector as well, is wrong, and no reason: its answer is empty.
    """
    if reason := why_no_buffer(target) or why_no_stage():
        return reason
    calls: list[Detected] = []
    case, visit = only_frame(target), Visit(0)

    def visit_one_frame(rank: int, world_size: int) -> dict[str, Any]:
        model, inputs_of = scripted(rank, target, case, calls)
        return call_buffer(target, model, case, visit, inputs_of(visit), {})

    # On a thread with a process group of its own: under torchrun, the others must not be waited for.
    ranks = Threads()
    answer: Mapping[str, Any] = {}
    try:
        answer = ranks.run(visit_one_frame, 1)[0].value
    except RanksFailed as failure:
        if not calls and answers_by_itself(target):
            return f"with a stand-in the buffer fails before it calls self.forward_grounding: {failure.reason}"
        return {}
    finally:
        ranks.close()
    if not calls:
        return "the buffer does not detect through self.forward_grounding, so nothing can stand in for it"
    return answer


def why_no_scripted_buffer(target: Target) -> str | None:
    """Say why the scripted detector cannot stand in for the target's, or give None where it can."""
    answer = first_answer(target)
    return answer if isinstance(answer, str) else None
