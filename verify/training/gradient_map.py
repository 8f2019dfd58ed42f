"""How each stage's outputs depend on the images of each frame, and on the parameters of each part of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fixtures.ranks import progress
from fixtures.toy.cpu import sam3_on_cpu
from verify.clips.batch import batch_of, frames_of_images
from verify.clips.case import Training
from verify.clips.projection import projection
from verify.clips.run import call, failed, model_of
from verify.clips.stages import read_stages
from verify.target.naming import Target
from verify.tensors.parts import part_of


@dataclass(frozen=True)
class GradientMap:
    """How each stage's outputs depend on the images of each frame, and on the parameters of each part of the model."""

    case: Training
    #: Row t, column s: norm of the gradient of stage t's outputs, projected at random, in the images of frame s.
    frames: tuple[tuple[float, ...], ...]
    #: For each part of the model the norms of the same gradients in its parameters, stage by stage.
    modules: Mapping[str, tuple[float, ...]]

    def as_json(self) -> dict[str, Any]:
        """The case and both kinds of norms."""
        return {
            "case": self.case.as_json(),
            "frames": [list(row) for row in self.frames],
            "modules": {part: list(norms) for part, norms in self.modules.items()},
        }


def map_gradients(rank: int, world_size: int, target: Target, case: Training) -> GradientMap:
    """Differentiate each stage's outputs by the images of every frame and by the parameters."""
    with sam3_on_cpu():
        model, batch = model_of(target, case), batch_of(case)
        batch.img_batch.requires_grad_()
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        stages = read_stages(call(model, batch))
        owner = frames_of_images(batch)
        rows: list[tuple[float, ...]] = []
        modules: dict[str, list[float]] = {part_of(name): [] for name in named}
        for number, steps in enumerate(stages.steps):
            value = projection(steps[-1], seed=number)
            batch.img_batch.grad = None
            model.zero_grad(set_to_none=True)
            if value is not None and value.requires_grad:
                try:
                    value.backward(retain_graph=True)
                except Exception as error:
                    raise failed(f"the gradient of stage {number} cannot be computed", error, batch) from error
            progress()
            squares = [0.0] * case.frames
            if batch.img_batch.grad is not None:
                for image, square in enumerate(batch.img_batch.grad.double().pow(2).flatten(1).sum(dim=1).tolist()):
                    if image in owner:
                        squares[owner[image]] += square
            rows.append(tuple(square**0.5 for square in squares))
            parts = dict.fromkeys(modules, 0.0)
            for name, parameter in named.items():
                if parameter.grad is not None:
                    parts[part_of(name)] += float(parameter.grad.double().pow(2).sum())
            for part, square in parts.items():
                modules[part].append(square**0.5)
        return GradientMap(case, tuple(rows), {part: tuple(norms) for part, norms in modules.items()})
