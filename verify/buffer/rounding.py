"""How far a batch may lie from single frames: what rounding comes to, measured on single frames.

A frame detected in a batch is the same sums in another order, and under autocast in bfloat16. What that amounts to is
measured: each frame is detected alone once more, several times, with each pixel moved by one rounding step of the
precision that the target runs in. At toy width batches lie 0.3 to 1.4 times as far off as the furthest of such runs, in
float32 and in bfloat16; the detections of another frame 4 to 40 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from reference.oracle.detection import SUPPRESSED
from verify.target.naming import Target
from verify.tensors.tolerance import distance
from verify.video.real import precision_of, single_process
from verify.video.scan import Scan

#: How many times as far off as the furthest of the perturbed runs a batch may lie.
MARGIN = 4.0
#: Perturbed runs.
RUNS = 3

Frames = Sequence[Mapping[str, torch.Tensor]]


def _perturbed_runs(target: Target, case: Scan) -> list[Frames]:
    return [single_process(target, case, perturbation=run + 1) for run in range(RUNS)] if case.batch else []


def rounding_of_batches(target: Target, case: Scan, alone: Frames) -> dict[str, float]:
    """Give for each tensor how far a frame of a batch may lie from the same frame alone; 0 for a chunked buffer.

    Args:
        alone: each frame's tensors, detected alone (``single_process``), without NMS.
    """
    return rounding_of(target, alone, _perturbed_runs(target, case))


def rounding_of(target: Target, alone: Frames, runs: Sequence[Frames]) -> dict[str, float]:
    """Give for each tensor how far sums in another order may carry it: by perturbed runs, 0 where there are none."""
    allowed = dict.fromkeys(alone[0], 0.0)
    step = torch.finfo(precision_of(target)).eps
    for run in runs:
        for right, moved in zip(alone, run, strict=True):
            for name, values in right.items():
                least = step * float(values.abs().max())
                allowed[name] = max(allowed[name], MARGIN * distance(values, moved[name]), least)
    return allowed


def unsettled_frames(target: Target, case: Scan, alone: Frames, plain: Frames) -> frozenset[int]:
    """The frames of which it is not settled what NMS keeps.

    Scores that are equal, as in bfloat16 they may well be, come in any order. In a batch one rounding step may change
    what is kept.

    Args:
        alone: each frame's tensors, detected alone, after NMS, and ``plain`` before it.
    """
    assert case.suppression is not None
    unsettled = set()
    for frame, found in enumerate(plain):
        for scores in found["pred_logits"].squeeze(-1).sigmoid():
            candidates = scores[scores > case.suppression.probability]
            if len(candidates.unique()) < len(candidates):
                unsettled.add(frame)
    for run in _perturbed_runs(target, case):
        for frame, (right, moved) in enumerate(zip(alone, run, strict=True)):
            kept, others = (found["pred_logits"] > SUPPRESSED for found in (right, moved))
            if not torch.equal(kept, others):
                unsettled.add(frame)
    return frozenset(unsettled)
