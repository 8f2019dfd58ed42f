"""How checks of the group *gradients* are registered, and the observation that several of them share."""

from __future__ import annotations

from functools import lru_cache, partial

from torch import nn

from fixtures.ranks import RanksFailed, Threads
from fixtures.synthetic.clips import why_no_clip
from fixtures.toy.shrink import CannotShrink
from verify.clips.case import Training, training_from_json
from verify.clips.forward import place_of_forward, why_no_clip_forward
from verify.clips.observe import on_one_rank
from verify.engine.check import THREADS, check
from verify.gradients.observation import differentiate, has_a_backward_pass
from verify.target.models import construction
from verify.target.naming import Target


@lru_cache(maxsize=8)
def why_no_forward(target: Target) -> str | None:
    """Say why a target has nothing to differentiate, over several frames or over one; None where it has."""
    if reason := why_no_clip():
        return reason
    try:
        model = construction(target, tracker=False, segmentation=False, eval_mode=False).model
    except CannotShrink as error:
        return str(error)
    return f"{type(model).__name__} has no forward" if type(model).forward is nn.Module.forward else None


def why_over_frames(target: Target) -> str | None:
    """Say that a target trains on clips, whose step another check takes; None where it trains on single frames."""
    return "it has a forward over several frames: test_step_runs" if why_no_clip_forward(target) is None else None


@lru_cache(maxsize=8)
def can_be_differentiated(target: Target) -> bool:
    """Whether a target's loss can be differentiated here, in float64, whatever else fails.

    A layer that computes in bfloat16 whatever it is given fails among others in float32. Whoever trains it under
    autocast has gradients, and may have lost some.
    """
    ranks = Threads()
    try:
        return bool(ranks.run(has_a_backward_pass, 1, target, Training(frames=1))[0].value)
    except RanksFailed:
        return False
    finally:
        ranks.close()


gradients_check = partial(
    check,
    "gradients",
    from_json=training_from_json,
    why_not_provided=why_no_forward,
    launchers=(THREADS,),
    cost=6,
    draws="gradients",
    rests_on=("test_step_runs", "test_one_frame_step_runs"),
    place_of_code=place_of_forward,
)
differentiated = on_one_rank(differentiate)
