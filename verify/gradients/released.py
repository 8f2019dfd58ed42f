"""The one-frame forward of a target, and that of the released sam3 under the same weights, in a process of its own.

Two versions of a package cannot be imported by one process. So the target's weights and the case go to another through
a file, which imports the sam3 that is installed, and sends back what that computes; on the same images moved by a
rounding step as well, which tells how far rounding goes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of, moved_by_rounding
from verify.clips.capture import captured_output
from verify.clips.case import Training, training_from_json
from verify.clips.projection import predictions, projection
from verify.clips.run import gathered, model_of
from verify.engine.finding import NotCovered
from verify.target.loading import load, package_folder
from verify.target.naming import Target
from verify.tensors.tolerance import tolerances

_ROOT = Path(__file__).parents[2]
#: Seconds that the other process may take; most of them go into imports.
_PATIENCE = 240.0
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Computed:
    """What a one-frame forward computes of a clip, frame by frame, and the gradients of a projection of it."""

    #: By frame, then by name.
    outputs: tuple[Tensors, ...]
    #: By parameter; those without a gradient are not in it.
    gradients: Tensors


@dataclass(frozen=True)
class Compared:
    """What the target computes, what the released sam3 does, and how far rounding takes that."""

    release: str
    target: Computed
    released: Computed
    #: How far each output, and each gradient, may lie off, by name.
    allowed: Mapping[str, float]


@lru_cache(maxsize=8)
def why_no_release(target: Target) -> str | None:
    """Say why a target's sam3 is not compared with the installed one; None where it can be."""
    load(target)
    found = PathFinder.find_spec("sam3", [entry for entry in sys.path if Path(entry) != package_folder().parent])
    if found is not None and found.origin is not None and Path(found.origin).parent != package_folder():
        return None
    return "the sam3 that it stands on is the installed one: there is no other to compare it with"


def compute(model: nn.Module, batch: Any) -> Computed:
    """Run sam3's one-frame forward over a model's parts on each frame, and differentiate a projection of what it gives.

    Raises:
        Violation: when the forward raises.
    """
    model.zero_grad(set_to_none=True)
    outputs, values = [], []
    for number, steps in enumerate(gathered(model, batch).output):
        outputs.append({name: value.detach().clone() for name, value in predictions(steps[-1]).items()})
        if (value := projection(steps[-1], number)) is not None:
            values.append(value)
    if values:
        torch.stack(values).sum().backward()
    gradients = {
        name: parameter.grad.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }
    return Computed(tuple(outputs), gradients)


def _misfits(ours: Tensors, released: Tensors) -> tuple[str, ...]:
    """Where the weights of two models do not go together: a sentence a name."""
    misfits = [f"{name} is not in the released model" for name in ours.keys() - released.keys()]
    misfits += [f"{name} is in the released model alone" for name in released.keys() - ours.keys()]
    for name in ours.keys() & released.keys():
        shapes = tuple(list(state[name].shape) for state in (ours, released))
        if shapes[0] != shapes[1]:
            misfits.append(f"{name} is {shapes[0]}, and {shapes[1]} in the released model")
    return tuple(sorted(misfits))


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the installed sam3 computes: its outputs and gradients, and those of images moved by a rounding step."""
    torch.set_num_threads(1)
    case = training_from_json(asked["case"])
    with sam3_on_cpu():
        model = model_of(Target("sam3"), case)
        if misfits := _misfits(asked["weights"], model.state_dict()):
            return {"misfits": misfits}
        model.load_state_dict(asked["weights"])
        batch = batch_of(case)
        return {"plain": compute(model, batch), "moved": compute(model, moved_by_rounding(batch))}


def _asked_of_release(question: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Put a question to a process that imports the installed sam3, and give its answer.

    Raises:
        NotCovered: where it fails, or takes too long.
    """
    given, answer = folder / "question.pt", folder / "answer.pt"
    torch.save(question, given)
    checkout = package_folder().parent
    path = [str(_ROOT), *(entry for entry in sys.path if entry and Path(entry) != checkout)]
    code = f"import sys; sys.path[:] = {json.dumps(path)}; from verify.gradients.released import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", code, str(given), str(answer)],
        env={name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + _PATIENCE
    with process:
        while process.poll() is None:
            progress()
            if time.monotonic() > deadline:
                process.kill()
                raise NotCovered(f"the installed sam3 did not answer within {_PATIENCE:g} s")
            time.sleep(0.05)
        told = process.stderr.read() if process.stderr else ""
    if process.returncode:
        last = told.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise NotCovered(f"the installed sam3 does not compute a frame of this case: {last[0]}")
    return torch.load(answer, weights_only=False)


def main() -> None:
    """Answer the question in the file that is named first, in the file that is named second."""
    torch.save(_answer(torch.load(sys.argv[1], weights_only=False)), sys.argv[2])


def _named(computed: Computed) -> list[Tensors]:
    """A dictionary for each frame's outputs, and one for the gradients."""
    return [*computed.outputs, computed.gradients]


def compare(rank: int, world_size: int, target: Target, case: Training) -> Compared:
    """Compute a case by the target's sam3 and by the installed one, under the same weights.

    Raises:
        NotCovered: where their weights do not go together.
    """
    with sam3_on_cpu(), captured_output():
        model = model_of(target, case)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        computed = compute(model, batch_of(case))
    with tempfile.TemporaryDirectory() as folder:
        answer = _asked_of_release({"case": case.as_json(), "weights": weights}, Path(folder))
    if misfits := answer.get("misfits"):
        raise NotCovered(
            f"the weights of the target's model and of the released one do not go together, in {len(misfits)} places: "
            + "; ".join(misfits[:3])
        )
    released = answer["plain"]
    allowed = tolerances(zip(_named(released), _named(answer["moved"]), strict=True))
    return Compared(_release(), computed, released, allowed)


def _release() -> str:
    try:
        return f"sam3 {version('sam3')}"
    except PackageNotFoundError:
        return "the installed sam3"
