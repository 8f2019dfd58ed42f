"""The values that parameters and buffers begin with: none from fresh memory, the same under the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fixtures.ranks import Ranks
from reference.data.generators import seeded
from verify.builder.case import Build
from verify.builder.observation import build_model, on_rank_zero
from verify.target.naming import Target


@dataclass(frozen=True)
class Initial:
    """The initial parameters and buffers of two builds under one seed, in fresh memory that holds NaN."""

    #: Names of those that hold values of fresh memory in the first build.
    uninitialised: tuple[str, ...]
    #: Names of those that differ between the builds.
    differing: tuple[str, ...]
    count: int


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _is_fresh(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(torch.isnan(tensor).any())
    return tensor.dtype != torch.bool and bool((tensor == torch.iinfo(tensor.dtype).max).any())


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    equal = one == other
    return bool((equal | (one != one) & (other != other)).all())


def _initial(rank: int, world_size: int, target: Target, case: Build) -> Initial:
    builds = []
    for _ in range(2):
        with seeded(case.seed):
            builds.append(_tensors(build_model(target, case, case.seed, initialise=False)))
    one, other = builds
    fresh = tuple(name for name, tensor in one.items() if _is_fresh(tensor))
    differing = tuple(name for name in one if name not in other or not _equal(one[name], other[name]))
    return Initial(fresh, differing, len(one))


def observe_initial(ranks: Ranks, target: Target, case: Build) -> Initial:
    """Build twice under one seed, with fresh memory filled with NaN.

    Raises:
        RanksFailed: when the builder fails.
    """
    return on_rank_zero(ranks, _initial, target, case)
