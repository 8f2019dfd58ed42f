"""What tests of several folders share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.commands import Run
from tests.fork_server import fork_server
from tests.vocabulary import read_once

#: What the commands that tests run import and is no part of this repository, where it takes long.
IMPORTED = ("torch", "sam3.model_builder", "sam3.train.loss.loss_fns", "sam3.train.trainer", "hypothesis", "pytest")


@pytest.fixture(scope="session")
def run_forked() -> Iterator[Run]:
    """Runs commands as ``run`` does, in forks of a process that has imported what takes long.

    For tests of the group ``commands``, so that there is one such process.
    """
    with fork_server(*IMPORTED) as run:
        yield run


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> Iterator[None]:
    """Let no collection look through what is imported: it would take longer than what most tests do."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _vocabulary_is_read_once() -> Iterator[None]:
    with read_once():
        yield
