"""The corrected implementation on other versions of sam3: SAM3_CHECKOUTS names folders that hold a package sam3."""

from __future__ import annotations

import os

import pytest

from tests.commands import run

FOLDERS = [folder for folder in os.environ.get("SAM3_CHECKOUTS", "").split(os.pathsep) if folder]


@pytest.mark.parametrize("folder", FOLDERS or [None])
def test_it_trains_and_runs_on_a_checkout(folder: str | None) -> None:
    if folder is None:
        pytest.skip("SAM3_CHECKOUTS names no folder with a package sam3")
    done = run("tests.recipe.on_checkout", folder, PYTHONWARNINGS="ignore")
    assert done.status == 0, done.err
