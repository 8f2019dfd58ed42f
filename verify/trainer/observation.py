"""What sam3's Trainer does with a target's configuration on real ranks."""

from __future__ import annotations

import os
import tempfile
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

import fixtures.trainer
from fixtures.ranks import Ranks
from fixtures.synthetic.videos import (
    IMAGE_ANNOTATIONS,
    VideoSpec,
    image_annotations,
    make_videos,
    video_annotations,
    write,
)
from fixtures.trainer import NotKnown, Step, Trained, at_toy_width, only_rank, run_trainer
from verify.configuration.configured import configuration_of
from verify.configuration.reading import captured_text, layout_of, masks_read, one_line_reason, source_of
from verify.engine.check import Observation
from verify.engine.finding import NotCovered, Violation
from verify.target.loading import load
from verify.target.naming import Target
from verify.trainer.case import Run

#: Where what runs and watches a Trainer lies.
_OURS = Path(fixtures.trainer.__file__).parent
#: By how much the boxes' L1 has to fall.
LEARNED = 2.0


def builder_of(spec: str, builder: str | None) -> Any:
    """Give a target's builder, where a configuration asks for it by name."""
    return load(Target(spec, builder)).builder


def _builder_node(target: Target) -> dict[str, Any] | None:
    """What makes the builder of the model: the target's own, where its configuration names none or another is named."""
    if target.builder is None and load(target).config is not None:
        return None
    return {"_target_": f"{__name__}.builder_of", "spec": target.spec, "builder": target.builder}


@dataclass(frozen=True)
class Both:
    """Two runs of one rank, of which the second is what the first should equal."""

    one: Trained
    other: Trained


class _Work:
    """Videos and folders of a run: shared by its ranks, and gone afterwards."""

    def __init__(self, folder: str, target: Target, case: Run) -> None:
        of_rank_0 = [folder]  # torchrun's ranks come with one each
        dist.broadcast_object_list(of_rank_0)
        self.folder, self.target, self.case = Path(of_rank_0[0]), target, case
        frames = 2 * case.frames if case.hold_out else case.frames
        spec = VideoSpec(
            videos=case.videos,
            frames=frames,
            objects=case.objects,
            always_there=True,
            speed=(0.5, 1.0) if case.hold_out else (4.0, 7.0),
            masks=masks_read(target),
            seed=case.seed,
        )
        self.annotations = self.folder / "train.json"
        self.held_out = self.folder / "held_out.json" if case.hold_out else None
        if dist.get_rank() == 0:
            videos = make_videos(self.folder, spec)
            step = 2 if case.hold_out else 1
            annotated = image_annotations if layout_of(target) == IMAGE_ANNOTATIONS else video_annotations
            write(annotated(videos, range(0, frames, step)), self.annotations)
            if self.held_out:
                write(annotated(videos, range(1, frames, step)), self.held_out)
        dist.barrier()

    def configuration(self, output: str, ranks: int) -> Any:
        return at_toy_width(
            configuration_of(self.target),
            _builder_node(self.target),
            self.folder,
            self.annotations,
            self.folder / output,
            self.case.schedule(ranks),
        )


def train_once(rank: int, world_size: int, folder: str, target: Target, case: Run) -> Trained:
    """Train; with the boxes' L1 on the frames held out, where the case holds any out."""
    work = _Work(folder, target, case)
    return _run(work, "run", world_size, held_out=work.held_out, enough=LEARNED)


def train_twice(rank: int, world_size: int, folder: str, target: Target, case: Run) -> Both:
    """Train, stop in the middle and go on; and train without a stop."""
    work = _Work(folder, target, case)
    before = _run(work, "stopped", world_size, stop_at=case.epochs // 2)
    after = _run(work, "stopped", world_size)
    unbroken = _run(work, "unbroken", world_size)
    return Both(Trained(before.steps + after.steps), unbroken)


@dataclass(frozen=True)
class Agreement:
    """The steps of all ranks together, and of one with all their clips."""

    together: tuple[Step, ...]
    alone: tuple[Step, ...]
    #: How far the first step's gradients lie apart, as vectors of norm 1; None where they are of other parameters.
    apart: float | None
    #: The length of the dataset, where that is told.
    datapoints: int | None


def train_alone(rank: int, world_size: int, folder: str, target: Target, case: Run) -> Agreement:
    """Train on all ranks together; and each rank by itself on the same batches."""
    work = _Work(folder, target, case)
    together = _run(work, "together", world_size, first_gradient=True)
    with only_rank():
        alone = _run(work, f"alone_{rank}", 1, first_gradient=True)
    # Compared here: gradients are too large to be sent to every rank.
    got, expected = together.steps[0].gradient, alone.steps[0].gradient
    comparable = got is not None and expected is not None and got.shape == expected.shape
    apart = float((got - expected).norm()) if comparable else None  # type: ignore[operator]
    without = [tuple(replace(step, gradient=None) for step in run.steps) for run in (together, alone)]
    return Agreement(without[0], without[1], apart, together.datapoints)


def _run(work: _Work, output: str, ranks: int, **options: Any) -> Trained:
    try:
        with captured_text() as written:
            return run_trainer(work.configuration(output, ranks), **options)
    except NotKnown:
        raise
    except Exception as error:
        details = "".join(traceback.format_exception(error, limit=-4, chain=False))
        text = one_line_reason(error, written.getvalue())
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent == _OURS:
            said = "the gate itself failed, which is a defect of the gate, in watching the Trainer"
        else:
            said = f"the Trainer does not train with clips from {source_of(work.target, work.case.frames)}"
        raise Violation(f"{said}: {text}", details=details) from error


def _or_not_known(rank: int, world_size: int, function: Any, *arguments: Any) -> Any:
    """What a function gives in a rank, or why it is not known: that reaches the gate as a value, and is no failure."""
    try:
        return function(rank, world_size, *arguments)
    except NotKnown as reason:
        return NotCovered(str(reason))


def on_ranks(function: Any) -> Observation:
    """Make an observation of a function that all ranks run, in a folder that they share.

    It raises ``NotCovered`` where the function cannot tell what the Trainer does.
    """

    def observe(ranks: Ranks, target: Target, case: Run) -> Any:
        if os.environ.get("LOCAL_WORLD_SIZE", "") != os.environ.get("WORLD_SIZE", ""):
            raise NotCovered("the ranks are on several machines, which share no folder for checkpoints")
        with tempfile.TemporaryDirectory(prefix="training-") as folder:
            # Results are exchanged when all ranks are done, so the folder outlives the last use of it.
            results = ranks.run(_or_not_known, case.world_size, function, folder, target, case)
        for result in results:
            if isinstance(result.value, NotCovered):
                raise result.value
        return [result.value for result in results]

    return observe
