"""How checks of the group *training* are registered, and the observations that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from verify.clips.case import Training, training_from_json
from verify.clips.forward import place_of_forward, why_no_clip_forward
from verify.clips.observe import on_one_rank
from verify.engine.check import THREADS, check
from verify.training.gradient_map import map_gradients
from verify.training.observation import train_clip
from verify.training.repetition import train_twice

Observe = Callable[[Training], Any]
training_check = partial(
    check,
    "training",
    from_json=training_from_json,
    why_not_provided=why_no_clip_forward,
    launchers=(THREADS,),
    cost=8,
    draws="training",
    rests_on=("test_step_runs",),
    place_of_code=place_of_forward,
)
trained = on_one_rank(train_clip)
mapped = on_one_rank(map_gradients)
trained_twice = on_one_rank(train_twice)
