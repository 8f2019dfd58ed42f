"""Imported by the server that ranks are forked from: builds the target's models once, and all ranks share them."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import torch

from verify.target.models import construction
from verify.target.naming import Target

_VARIABLE = "SAM3_VIDEO_VERIFY_PRELOAD"


@contextmanager
def announced(target: Target) -> Iterator[None]:
    """Let a server that is started meanwhile build the models of ``target``."""
    os.environ[_VARIABLE] = json.dumps(asdict(target))
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def _build() -> None:
    if _VARIABLE not in os.environ:
        return
    torch.set_num_threads(1)  # threads of a pool would not be there in forked ranks, which would wait for them
    target = Target(**json.loads(os.environ[_VARIABLE]))
    with suppress(Exception):  # ranks meet the same failure, and report it
        for tracker in (True, False):
            construction(target, tracker)


_build()
# The last that the server imports. Collections in ranks would look through all of it, and copy memory that they share.
gc.collect()
gc.freeze()
