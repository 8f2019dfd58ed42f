"""Where an exception was raised."""

from __future__ import annotations

import os
import traceback


def frames_outside_torch(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the stack that an exception came through, outermost first, without those of torch's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename]
