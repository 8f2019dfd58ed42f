"""What the gate imports before a check asks for it: no more than every run needs."""

from __future__ import annotations

import subprocess
import sys

from tests.commands import ROOT

#: What only some checks of some targets use, and takes a second and more to import.
LATE = ("sam3.train.loss", "sam3.train.trainer", "torchmetrics", "reference.recipe.loss")


def test_the_modules_of_checks_import_no_losses() -> None:
    said = f"import sys; from verify.groups import registered; registered(); print(*{{*{LATE}}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
