"""What the gate imports before a check asks for it: no more than every run needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, run

#: What only some checks of some targets use, and takes a second and more to import.
LATE = ("sam3.train.loss", "sam3.train.trainer", "torchmetrics", "reference.recipe.loss")


def test_the_modules_of_checks_import_no_losses() -> None:
    said = f"import sys; from verify.groups import registered; registered(); print(*{{*{LATE}}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_server_of_ranks_leaves_its_forks_nothing_to_look_through() -> None:
    said = "import gc, verify.target.preload; print(len(gc.get_objects()) < gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


#: A plugin of pytest's that says how much garbage collections have to look through while a check is made.
_LOOKS = """
import gc
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    seen, frozen = len(gc.get_objects()), gc.get_freeze_count()
    open("LOOKED", "w").write(f"{seen < frozen} {gc.isenabled()}")
    return (yield)
"""


@pytest.mark.xdist_group("commands")
def test_no_collection_looks_through_what_was_imported(tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(_LOOKS.replace("LOOKED", str(tmp_path / "looked")))
    # In a process of its own: the one that the other commands are forked from has set aside what it has imported.
    arguments = ("-p", "looks", "--only", "test_coverage", "--launcher", "threads")
    done = run("pytest", "verify", "-n", "0", *arguments, PYTHONPATH=str(tmp_path))
    assert done.status == 0, done.out + done.err
    assert (tmp_path / "looked").read_text() == "True True"
