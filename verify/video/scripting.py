"""The target's buffer around a scripted detector."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.synthetic.script import Script
from fixtures.synthetic.scripted_detector import Detected, numbered_prompt, numbered_text, scripted_forward, stages
from verify.target.naming import Target
from verify.video.detector import buffer_of, detector, why_no_buffer
from verify.video.scan import Scan


def scripted_detector(target: Target, case: Scan, script: Script, rank: int, calls: list[Detected]) -> nn.Module:
    """The target's detector with a scripted ``forward_grounding``; each detection is appended to ``calls``."""
    model = detector(target, case)
    model.training = False  # eval() would walk through all parts, which are scripted away
    object.__setattr__(model, "forward_grounding", scripted_forward(script, rank, calls))
    return model


@lru_cache(maxsize=8)
def why_no_scripted_buffer(target: Target) -> str | None:
    """Say why the scripted detector cannot stand in for the target's, or give None where it can.

    A buffer that does not detect through ``self.forward_grounding`` answers without calling the stand-in.
    """
    if reason := why_no_buffer(target):
        return reason
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
