"""The models of a target: built once a process at toy width, then constructed again around the same parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.scripted import Detected, Script, numbered_prompt, numbered_text, scripted_forward, stages
from fixtures.stir import stir
from fixtures.toy import CannotShrink, Construction, build_toy
from verify.scan import Scan
from verify.target import BUFFER_METHOD, Target, load


@lru_cache(maxsize=8)
def construction(target: Target, tracker: bool, segmentation: bool = True, eval_mode: bool = True) -> Construction:
    """Build the target's model at toy width, with or without a tracker neck and a segmentation head.

    Its weights are stirred: untrained, it would give the same boxes for every frame. Where a builder fails with the
    tracker neck on, the model has none.

    Raises:
        CannotShrink: where its builder fails or its model does not get small.
    """
    try:
        built = build_toy(
            load(target).builder,
            enable_inst_interactivity=tracker,
            enable_segmentation=segmentation,
            eval_mode=eval_mode,
        )
    except CannotShrink:
        if not tracker:
            raise
        return construction(target, False, segmentation, eval_mode)
    stir(built.model)
    return built


def buffer_of(model: Any) -> Callable[..., Any]:
    """The model's chunked buffer: its bound method ``forward_video_grounding_multigpu``."""
    return getattr(model, BUFFER_METHOD)


#: Stands among the names of a buffer's arguments where it takes any others as well.
ANY_OTHER = "**"


def buffer_options(target: Target) -> frozenset[str]:
    """Names of the arguments that the target's buffer declares; ``ANY_OTHER`` is one where it swallows others."""
    model = construction(target, tracker=True).model
    parameters = inspect.signature(getattr(type(model), BUFFER_METHOD)).parameters.values()
    return frozenset(
        ANY_OTHER if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.name for parameter in parameters
    )


def lacks_buffer(target: Target) -> str | None:
    """Say why the checks of the buffer cannot run on a target, or give None where they can."""
    try:
        model = construction(target, tracker=True).model
    except CannotShrink as error:
        return str(error)
    if not hasattr(type(model), BUFFER_METHOD):
        return f"{type(model).__name__} has no {BUFFER_METHOD}"
    return None


def detector(target: Target, case: Scan) -> nn.Module:
    """Construct the target's detector as a rank would, from the same parts and the rank's environment.

    It is in training mode, as a new module is.
    """
    built = construction(target, tracker=case.tracker)
    wanted = {"async_all_gather": case.asynchronous, "gather_backbone_out": case.gather}
    parameters = inspect.signature(type(built.model)).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        wanted = {name: value for name, value in wanted.items() if name in parameters}
    return built.again(**wanted)


def scripted_detector(target: Target, case: Scan, script: Script, rank: int, calls: list[Detected]) -> nn.Module:
    """The target's detector with a scripted ``forward_grounding``; each detection is appended to ``calls``."""
    model = detector(target, case)
    model.training = False  # eval() would walk through all parts, which are scripted away
    object.__setattr__(model, "forward_grounding", scripted_forward(script, rank, calls))
    return model


@lru_cache(maxsize=8)
def lacks_scripted_buffer(target: Target) -> str | None:
    """Say why the scripted detector cannot stand in for the target's, or give None where it can.

    A buffer that does not detect through ``self.forward_grounding`` answers without calling the stand-in.
    """
    if lacks := lacks_buffer(target):
        return lacks
    calls: list[Detected] = []

    def visit_one_frame(rank: int, world_size: int) -> None:
        model = scripted_detector(target, Scan(frames=1, world_size=1, gather=False), Script(), rank, calls)
        buffer_of(model)(
            backbone_out={"img_batch_all_stages": torch.zeros(1, 3, 2, 2), **numbered_text(1, 0)},
            find_inputs=stages(1, 1),
            geometric_prompt=numbered_prompt(1, 0),
            frame_idx=0,
            num_frames=1,
            multigpu_buffer={},
        )

    # On a thread with a process group of its own: under torchrun, the others must not be waited for.
    ranks = Threads()
    try:
        ranks.run(visit_one_frame, 1)
    except RanksFailed as failure:
        if not calls:
            return f"the buffer fails before it calls self.forward_grounding: {failure.reason}"
    finally:
        ranks.close()
    if not calls:
        return "the buffer does not detect through self.forward_grounding, so nothing can stand in for it"
    return None
