"""How checks of the group *schedule* are registered."""

from __future__ import annotations

from functools import partial

from verify.buffer.observation import observe_scripted
from verify.buffer.pictures import differing_scan_pictures
from verify.engine.check import check
from verify.video.detector import place_of_buffer
from verify.video.scan import scan_from_json
from verify.video.scripting import why_no_scripted_buffer

schedule_check = partial(
    check,
    "schedule",
    observation=observe_scripted,
    from_json=scan_from_json,
    why_not_provided=why_no_scripted_buffer,
    per_subject=True,
    rests_on=("test_answers_at_all",),
    place_of_code=place_of_buffer,
    pictures=differing_scan_pictures,
)
