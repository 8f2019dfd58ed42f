"""What tests of several folders share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from fixtures.ranks import gpus
from tests import bytecode
from tests.commands import Run
from tests.fork_server import fork_server
from verify.ci.publication import FOLDER

#: What the commands that tests run import and is no part of this repository, where it takes long.
IMPORTED = ("torch", "sam3.model_builder", "sam3.train.loss.loss_fns", "sam3.train.trainer", "hypothesis", "pytest")


def pytest_configure(config: pytest.Config) -> None:
    # Before xdist starts its workers, which inherit both.
    gpus.hide()
    kept = bytecode.kept()
    kept.__enter__()
    config.add_cleanup(lambda: kept.__exit__(None, None, None))


@pytest.fixture(scope="session")
def run_forked() -> Iterator[Run]:
    """Runs commands as ``run`` does, in forks of a process that has imported what takes long.

    For tests of the group ``commands``, so that there is one such process.
    """
    with fork_server(*IMPORTED) as run:
        yield run


@pytest.fixture(scope="session", autouse=True)
def _not_on_github() -> Iterator[None]:
    """Let no seeded bug write to the page of the job that these tests are run in."""
    names = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", FOLDER)
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> Iterator[None]:
    """Let no collection look through what is imported: it would take longer than what most tests do."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _vocabulary_is_read_once() -> Iterator[None]:
    from tests.vocabulary import read_once  # imports sam3, for which xdist's controller has no use

    with read_once():
        yield
