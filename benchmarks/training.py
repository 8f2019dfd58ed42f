"""What a training step on a clip costs: the corrected implementation beside the recipe as posted.

    python -m benchmarks.training [--steps N]

Prints, from one run, with steps of both taken in turn: seconds for a step (forward, the recipe's box loss, backward)
at toy width without segmentation, the median of N; and how many images went through the image backbone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from fixtures.ranks import Threads
from fixtures.synthetic.clips import ClipSpec, make_clip
from fixtures.toy.cpu import sam3_on_cpu
from reference.oracle.training import CORE_LOSS
from verify.target.loading import load
from verify.target.models import construction
from verify.target.naming import Target

TARGETS = ("reference", "posted")


def images_encoded(model: nn.Module, step: Callable[[], None]) -> int:
    """Count the images that reach a convolution of three channels during a step."""
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    step()
    for hook in hooks:
        hook.remove()
    return sum(seen)


def measure(rank: int, world_size: int, frames: int, steps: int) -> dict[str, tuple[float, int]]:
    """Give for each target the median seconds of a step and the images encoded in one."""
    batch = make_clip(ClipSpec(frames=frames))
    loss = load(Target("posted")).loss(masks=False)

    def step_of(model: nn.Module) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            targets = [model.back_convert(target) for target in batch.find_targets]  # type: ignore[operator]
            loss(model(batch), targets)[CORE_LOSS].backward()

        return step

    with sam3_on_cpu():
        models = {
            name: construction(Target(name), tracker=False, segmentation=False, eval_mode=False).model
            for name in TARGETS
        }
        runs = {name: step_of(model) for name, model in models.items()}
        encoded = {name: images_encoded(models[name], runs[name]) for name in TARGETS}
        taken: dict[str, list[float]] = {name: [] for name in TARGETS}
        for _ in range(steps):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - start)
    return {name: (statistics.median(taken[name]), encoded[name]) for name in TARGETS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    threads = Threads(patience=600)  # the recipe's loss needs a process group; a thread has one of its own
    lines = []
    for frames in (4, 8):
        (result,) = threads.run(measure, 1, frames, steps)
        for name, (seconds, images) in result.value.items():
            lines.append(f"{frames} frames  {name:<9}  {seconds:.2f} s a step, {images} images encoded")
    threads.close()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
