"""A small synthetic checkout laid out as SAM 3.1's: the installed sam3 with a batched buffer in a video predictor.

``write`` makes it. All files but a few are links to the installed package's; the others are of this folder:

========================  =========================================================================================
in the checkout           what it is
========================  =========================================================================================
perflib/fused.py          a kernel for inference only, in bfloat16 on detached weights
model/fused_mlp.py        the MLP that calls it; ``vitdet.py`` is told at its end to use that
model/multiplex.py        a detector with a batched buffer, and a predictor around it
model_builder.py          has the predictor's builder at its end: it asks which GPU there is, and downloads weights
========================  =========================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import sam3

OWN = Path(__file__).parent
#: Where this folder's modules go in the package.
_ADDED = {"fused.py": "perflib/fused.py", "fused_mlp.py": "model/fused_mlp.py", "multiplex.py": "model/multiplex.py"}


def _append(path: Path, text: str) -> None:
    installed = path.read_text()
    path.unlink()  # a link to the installed package's, which stays as it is
    path.write_text(f"{installed}\n\n{text}")


def write_plain(folder: Path, **appended: str) -> Path:
    """Write the installed package ``sam3`` into ``folder``, and give its path.

    ``appended``: what stands at the end of modules of ``sam3.model``, by their names, and of others by their paths.
    """
    package = folder / "sam3"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(sam3.__file__).parent, package, ignore=ignored, copy_function=os.symlink)
    for module, text in appended.items():
        _append(package / (f"{module}.py" if "/" in module else f"model/{module}.py"), text)
    return package


#: What keeps the kernel from being used where gradients are wanted.
_GUARD = re.compile(r"    if torch\.is_grad_enabled\(\):\n        raise .*\n")


def write_unguarded(folder: Path) -> Path:
    """Write the checkout as forks have it that took the kernel's guard away, so that training "runs"."""
    package = write(folder)
    kernel = package / _ADDED["fused.py"]
    text, taken = _GUARD.subn("", kernel.read_text())
    assert taken == 1
    kernel.write_text(text)
    return package


def write(folder: Path) -> Path:
    """Write the checkout's package ``sam3`` into ``folder``, and give the package's path."""
    package = write_plain(folder, vitdet="from sam3.model.fused_mlp import FusedMlp as Mlp  # noqa: E402\n")
    for name, place in _ADDED.items():
        shutil.copy(OWN / name, package / place)
    _append(package / "model_builder.py", (OWN / "predictor_builder.py").read_text())
    return package
