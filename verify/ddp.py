"""Training under DistributedDataParallel: what every rank saw of it, and what a single process computes of the same."""

from __future__ import annotations

import hashlib
import inspect
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from hypothesis import strategies as st
from sam3.model.data_misc import BatchedDatapoint
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fixtures.clips import ClipSpec, make_clip
from fixtures.cpu import sam3_on_cpu
from fixtures.ranks import Ranks, RanksFailed, Threads, during, progress
from fixtures.stir import stir
from fixtures.toy import build_toy
from reference import detection
from reference.training import CORE_LOSS
from verify.case import changed_fields, refuse_unknown_fields
from verify.finding import Violation
from verify.observation import DETECTIONS, clip_of, prompt_of, real_detector
from verify.scan import Scan
from verify.subject import buffer_of
from verify.target import Target, load
from verify.tolerance import perturbed, tolerances

#: What a configuration may pair: whether there is a segmentation head, and whether masks enter the loss.
PAIRINGS: Mapping[str, tuple[bool, bool]] = {
    "boxes": (False, False),
    "masks": (True, True),
    "boxes beside masks": (True, False),
}
WORDS = {
    "boxes": "no segmentation head, loss on boxes",
    "masks": "segmentation head, loss on boxes and masks",
    "boxes beside masks": "segmentation head, loss on boxes alone",
}
#: The recipe's largest norm of a gradient.
MAX_NORM = 0.1
LEARNING_RATE = 1e-3
MAX_FRAMES = 8


@dataclass(frozen=True)
class DataParallel:
    """A training run of some iterations; rank r's clip in iteration i is a new one, of length ``frames[r + i]``.

    Where a rank's number is beyond the end of a tuple, counting starts again.
    """

    world_size: int
    pairing: str = "boxes"
    frames: tuple[int, ...] = (2,)
    #: Objects in every frame, by rank.
    objects: tuple[int, ...] = (2,)
    #: Box prompts a frame, by rank.
    boxes: tuple[int, ...] = (0,)
    #: Text prompts a clip.
    prompts: int = 1
    iterations: int = 3
    seed: int = 0

    @property
    def segmentation(self) -> bool:
        return PAIRINGS[self.pairing][0]

    @property
    def masks(self) -> bool:
        """Whether targets carry masks and the loss is on them, too."""
        return PAIRINGS[self.pairing][1]

    def clip(self, rank: int, iteration: int = 0) -> ClipSpec:
        objects = self.objects[rank % len(self.objects)]
        return ClipSpec(
            frames=self.frames[(rank + iteration) % len(self.frames)],
            prompts=self.prompts,
            objects=objects,
            # As many in each frame on each rank: a loss that is normalised by the number of objects on all ranks is
            # then what it is on one, and can be compared with it.
            fewest=objects,
            boxes=self.boxes[rank % len(self.boxes)],
            masks=self.masks,
            seed=(self.seed * 64 + rank) * 64 + iteration,
        )

    def clips(self, iteration: int = 0) -> tuple[ClipSpec, ...]:
        """The clip of every rank."""
        return tuple(self.clip(rank, iteration) for rank in range(self.world_size))

    def as_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON; the world size always."""
        return changed_fields(self, "world_size")


def data_parallel_from_json(data: Mapping[str, Any]) -> DataParallel:
    """Read a case as ``DataParallel.as_json`` wrote it.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    refuse_unknown_fields(DataParallel, data)
    try:
        values: dict[str, Any] = dict(data)
        values |= {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        case = DataParallel(**values)
        if case.pairing not in PAIRINGS:
            raise ValueError(f"pairing is {case.pairing!r}; it is one of {', '.join(PAIRINGS)}")
        if not 1 <= min(case.frames) <= max(case.frames) <= MAX_FRAMES:
            raise ValueError(f"frames are {case.frames}; a clip has 1 to {MAX_FRAMES}")
        if min(case.prompts, case.iterations) < 1 or min(*case.objects, *case.boxes, 0) < 0:
            raise ValueError("there is at least one prompt and iteration, and no negative number of anything")
    except TypeError as error:
        raise ValueError(str(error)) from None
    return case


@st.composite
def data_parallel(draw: st.DrawFn, world_sizes: st.SearchStrategy[int], **fixed: Any) -> DataParallel:
    """Draw runs whose clips all have the same length."""
    values: dict[str, Any] = {
        "world_size": draw(world_sizes),
        # The first of each is what the first run has, of which there is one for each world size in profile quick.
        "frames": (draw(st.sampled_from((2, 3))),),
        "boxes": (draw(st.sampled_from((1, 0))),),
        "prompts": draw(st.sampled_from((2, 1))),
        "seed": draw(st.integers(0, 255)),
    }
    return DataParallel(**{**values, **fixed})


@st.composite
def uneven(draw: st.DrawFn, world_sizes: st.SearchStrategy[int], **fixed: Any) -> DataParallel:
    """Draw runs whose clips differ in length between ranks, and on a rank from iteration to iteration."""
    lengths = draw(st.permutations(range(1, 4)).map(lambda order: tuple(order[:2])))
    return draw(data_parallel(world_sizes, frames=lengths, **fixed))


@dataclass(frozen=True)
class Gradient:
    """A copy of a gradient to be sent: where most of it is zero (of a vocabulary, say), what is not."""

    shape: torch.Size
    values: torch.Tensor
    #: Where the values are in the flattened gradient; None: all of it.
    places: torch.Tensor | None = None

    def to_dense(self) -> torch.Tensor:
        if self.places is None:
            return self.values.view(self.shape)
        whole = torch.zeros(self.shape.numel(), dtype=self.values.dtype)
        whole[self.places] = self.values
        return whole.view(self.shape)


Gradients = Mapping[str, Gradient | None]


@dataclass(frozen=True)
class Iteration:
    """What a rank saw of one iteration."""

    loss: float
    #: Parameters that got a gradient from this rank's own backward pass.
    used: frozenset[str]
    #: A digest of each parameter's gradient as the optimiser sees it; None where there is none.
    gradients: Mapping[str, str | None]


@dataclass(frozen=True)
class Trained:
    """What a rank saw of a run."""

    iterations: tuple[Iteration, ...]
    #: The gradients of the first iteration, by parameter.
    first: Gradients
    #: Digests of the parameters as DDP wrapped them, as the first forward found and left them, and after the run.
    wrapped: Mapping[str, str]
    entered: Mapping[str, str]
    left: Mapping[str, str]


@dataclass(frozen=True)
class OneProcess:
    """What a single process computes of one rank's clip."""

    loss: float
    gradients: Gradients
    #: The same of the clip with its pixels moved by one rounding step; of rank 0's clip alone.
    perturbed: Gradients


class IterationFailed(Exception):
    """An iteration raised; the message names it, and what had no gradient in the one before."""


class _Unwrapped(nn.Module):
    """Stands for DDP around a model in a single process: what calls the one can call the other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def no_sync(self) -> Any:
        return nullcontext()


def trained_model(target: Target, segmentation: bool) -> nn.Module:
    """Build the target's model for training at toy width, with stirred weights: the same in every process.

    Raises:
        CannotShrink: where its builder fails or its model does not get small.
    """
    model = build_toy(load(target).builder, eval_mode=False, enable_segmentation=segmentation).model
    return stir(model).train()


def criterion_of(target: Target, masks: bool) -> Any:
    """Make the loss that the target is trained with; with masks on instances and, where it has it, on semantics.

    sam3's configuration has the two together: an output without loss is what another pairing is for.
    """
    make = load(target).loss
    semantic = {"semantic": masks} if "semantic" in inspect.signature(make).parameters else {}
    return make(masks=masks, **semantic)


def on_device_of(model: nn.Module, batch: BatchedDatapoint) -> BatchedDatapoint:
    device = next(model.parameters()).device
    if device.type == "cpu":
        return batch
    from sam3.model.utils.misc import copy_data_to_device

    return copy_data_to_device(batch, device)


def _step(target: Target, wrapped: nn.Module, criterion: Any, batch: BatchedDatapoint) -> float:
    """One forward, as the target's own training calls it, loss and backward; gives the loss."""
    model: Any = wrapped.module
    batch = on_device_of(model, batch)
    call = load(target).train_step
    outputs = wrapped(batch) if call is None else call(wrapped, batch)
    progress()
    loss = criterion(outputs, [model.back_convert(found) for found in batch.find_targets])[CORE_LOSS]
    loss.backward()
    progress()
    return float(loss.detach())


def _digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=8).hexdigest()


def _digests(model: nn.Module) -> dict[str, str]:
    return {name: _digest(parameter) for name, parameter in model.named_parameters()}


def _copied(tensor: torch.Tensor | None) -> Gradient | None:
    if tensor is None:
        return None
    flat = tensor.detach().cpu().flatten()
    if flat.count_nonzero() * 8 >= flat.numel():
        return Gradient(tensor.shape, flat.clone())
    places = flat.nonzero().squeeze(1)
    return Gradient(tensor.shape, flat[places], places)


def _copied_gradients(model: nn.Module) -> dict[str, Gradient | None]:
    return {name: _copied(parameter.grad) for name, parameter in model.named_parameters() if parameter.requires_grad}


def in_groups(names: Any) -> str:
    """Name parameters by their part of the model: ``segmentation_head (28), …``."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))


def train(rank: int, world_size: int, target: Target, case: DataParallel) -> Trained:
    """One rank's part of a training run, as the recipe configures it.

    Raises:
        IterationFailed: when an iteration raises.
    """
    torch.set_num_threads(1)
    with sam3_on_cpu():
        model = trained_model(target, case.segmentation)
        criterion = criterion_of(target, case.masks)
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        used: set[str] = set()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: None if gradient is None else used.add(name))
        progress()
        wrapped = DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
        before = _digests(model)
        entered: dict[str, str] = {}
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        seen: list[Iteration] = []
        first: dict[str, Gradient | None] = {}
        for number in range(case.iterations):
            optimiser.zero_grad(set_to_none=True)
            used.clear()
            clip = case.clip(rank, number)
            try:
                with during(f"iteration {number + 1}, on a clip of {clip.frames} frames"):
                    loss = _step(target, wrapped, criterion, make_clip(clip))
            except Exception as error:
                unused = in_groups(set(names) - seen[-1].used) if seen else ""
                told = f"; without gradient in iteration {number}: {unused}" if unused else ""
                first_line = (str(error).strip().splitlines() or [""])[0]
                raise IterationFailed(f"iteration {number + 1}: {type(error).__name__}: {first_line}{told}") from error
            gradients = {
                name: None if parameter.grad is None else _digest(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            if not seen:
                first, entered = _copied_gradients(model), _digests(model)
            seen.append(Iteration(loss, frozenset(used), gradients))
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimiser.step()
            progress()
        return Trained(tuple(seen), first, before, entered, _digests(model))


def _alone(
    rank: int, world_size: int, target: Target, pairing: str, specs: tuple[ClipSpec, ...], also_perturbed: bool
) -> tuple[OneProcess, ...]:
    segmentation, masks = PAIRINGS[pairing]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in ranks: sums of floats must not depend on how many there are
    try:
        with sam3_on_cpu():
            model = trained_model(target, segmentation)
            criterion = criterion_of(target, masks)

            def gradients(batch: BatchedDatapoint) -> tuple[float, dict[str, Gradient | None]]:
                model.zero_grad(set_to_none=True)
                return _step(target, _Unwrapped(model), criterion, batch), _copied_gradients(model)

            results: list[OneProcess] = []
            for spec in specs:
                batch = make_clip(spec)
                loss, found = gradients(batch)
                moved: Gradients = {}
                if also_perturbed and not results:
                    moved = gradients(replace(batch, img_batch=perturbed(batch.img_batch)))[1]
                results.append(OneProcess(loss, found, moved))
            return tuple(results)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=16)
def one_process(target: Target, pairing: str, specs: tuple[ClipSpec, ...]) -> tuple[OneProcess, ...]:
    """Compute loss and gradients of each clip by itself, from the weights a run begins with.

    In a process that is the only rank of its job, for a loss may ask its process group.

    Raises:
        RanksFailed: when that fails.
    """
    ranks = Threads()
    try:
        return ranks.run(_alone, 1, target, pairing, specs, True)[0].value
    finally:
        ranks.close()


def _dense(gradients: Gradients) -> dict[str, torch.Tensor]:
    return {name: gradient.to_dense() for name, gradient in gradients.items() if gradient is not None}


def gradient_tolerances(alone: tuple[OneProcess, ...]) -> dict[str, float]:
    """How far a gradient may lie from the one that a single process computes, by parameter.

    Ranks do the same sums in the same order, and yet not to the bit: functions that torch compiles run otherwise the
    first time they are called in a process. Means over ranks may lie as far off as their terms.
    """
    return tolerances([(_dense(alone[0].gradients), _dense(alone[0].perturbed))])


def collectives_of_a_step(target: Target, pairing: str, spec: ClipSpec) -> tuple[str, ...]:
    """The collectives that the forward and the loss of one clip issue by themselves, in a single process."""
    ranks = Threads()
    try:
        log = ranks.run(_alone, 1, target, pairing, (spec,), False)[0].collectives
    finally:
        ranks.close()
    return tuple(entry.operation for entry in log)


#: What ranks saw of a run, or how it failed: checks that look at the same run share it.
_seen: weakref.WeakKeyDictionary[Any, dict[tuple[Target, DataParallel], tuple[Trained, ...] | RanksFailed]] = (
    weakref.WeakKeyDictionary()
)
_KEPT = 16


def observe_training(ranks: Ranks, target: Target, case: DataParallel) -> tuple[Trained, ...]:
    """Train on ranks; gives what each of them saw. A run that another check has observed is not run again.

    Raises:
        RanksFailed: when a rank fails, dies or hangs.
    """
    kept = _seen.setdefault(ranks, {})
    key = (target, case)
    if key not in kept:
        while len(kept) >= _KEPT:
            kept.pop(next(iter(kept)))
        try:
            kept[key] = tuple(result.value for result in ranks.run(train, case.world_size, target, case))
        except RanksFailed as failure:
            kept[key] = failure
    found = kept[key]
    if isinstance(found, RanksFailed):
        raise found
    return found


_AT_FAULT = ("raised", "exited", "killed", "running")


def violation(message: str, failure: RanksFailed) -> Violation:
    """A failed run of ranks as a violation: the message, the failure's reason, the stacks."""
    culprit = next((status.rank for status in failure.statuses if status.state in _AT_FAULT), None)
    details = "\n".join(str(failure).splitlines()[1:])
    return Violation(f"{message}: {failure.reason}", rank=culprit, details=details)


# Gradient through the buffer

#: For each frame in order, which detections carry gradient.
Carrying = tuple[Mapping[str, bool], ...]


def _scan_with_gradient(rank: int, world_size: int, target: Target, case: Scan) -> Carrying:
    with sam3_on_cpu():
        model = real_detector(target, case)
        clip = clip_of(case)
        prompt = prompt_of(clip)
        text = detection.encode_text(model, clip)
        buffer: dict[Any, Any] = {}
        seen = []
        with torch.enable_grad():
            for visit in case.calls():
                returned = buffer_of(model)(
                    backbone_out={"img_batch_all_stages": clip.img_batch, **text},
                    find_inputs=clip.find_inputs,
                    geometric_prompt=prompt,
                    frame_idx=visit.frame,
                    num_frames=case.frames,
                    multigpu_buffer=buffer,
                )
                answer = returned[0] if isinstance(returned, tuple) else returned
                seen.append({key: answer[key].requires_grad for key in DETECTIONS if key in answer})
                progress()
        return tuple(seen)


def observe_gradient(ranks: Ranks, target: Target, case: Scan) -> tuple[Carrying, ...]:
    """Scan a clip with gradient on; gives for each rank what of its answers carries gradient.

    Raises:
        RanksFailed: when a rank fails.
    """
    return tuple(result.value for result in ranks.run(_scan_with_gradient, case.world_size, target, case))


Observe = Callable[[DataParallel], tuple[Trained, ...]]
