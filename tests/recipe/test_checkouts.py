"""The corrected implementation on other versions of sam3: SAM3_CHECKOUTS names folders that hold a package sam3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = [folder for folder in os.environ.get("SAM3_CHECKOUTS", "").split(os.pathsep) if folder]


@pytest.mark.parametrize("folder", FOLDERS or [None])
def test_it_trains_and_runs_on_a_checkout(folder: str | None) -> None:
    if folder is None:
        pytest.skip("SAM3_CHECKOUTS names no folder with a package sam3")
    script = Path(__file__).with_name("on_checkout.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
