"""Finding the parameters whose gradient is not the derivative of the loss: all are tried at once, then halves of them.

Each parameter is moved in proportion to its own size, half along its gradient and half at random: along the gradient
a wrong factor shows most, at random what is missing beside it. A comparison decides about a parameter only if an error
in it of a hundredth would have shown. What is left is compared anew, along other directions, with other steps, in
smaller groups; what stays undecided is reported so, neither right nor wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from reference.oracle.differences import derivative, rounding_noise

#: A part of a parameter's gradient that must not be missed.
SHARE = 0.01
#: A deviation is none below this part of a parameter's own share in the derivative: a layer of a fork's own may round.
ROUNDED = 1e-3
#: The same, for parameters that move the loss little, as a part of what the most effective parameter does.
NEGLIGIBLE = 1e-6
#: How many times the estimated error two derivatives may lie apart.
MARGIN = 4.0
#: Steps that are tried one after the other, as multiples of the shortest one that rounding leaves precise enough: the
#: shorter it is, the fewer kinks (of a ReLU, of a maximum) lie on the way.
STEPS = (1.0, 10.0, 0.3)
#: Evaluations of the loss that a search may take, and parameters at fault that it tells apart: then it names groups.
#: Both count for parameters with a gradient and for those without.
MOST_EVALUATIONS = 240
MOST_NAMED = 4


@dataclass(frozen=True)
class Weight:
    """A parameter and its gradient by autograd; None where there is none, or nothing but zeros."""

    name: str
    tensor: torch.Tensor
    gradient: torch.Tensor | None


@dataclass(frozen=True)
class Disagreement:
    """A parameter for which autograd and differences give other derivatives along the same direction."""

    name: str
    #: Autograd's, or None without a gradient.
    got: float | None
    expected: float
    error: float


@dataclass(frozen=True)
class Sought:
    """What a search came to; each parameter that is right, or rightly has no gradient, is in none of these."""

    wrong: tuple[Disagreement, ...]
    #: Groups in which some are wrong, not told apart: enough were named.
    groups: tuple[tuple[str, ...], ...]
    #: What no comparison could tell of, or was not looked at any more.
    undecided: tuple[str, ...]


@dataclass(frozen=True)
class _Compared:
    got: float
    expected: float
    error: float
    #: By weight, what it adds to the derivative.
    shares: tuple[float, ...]

    @property
    def apart(self) -> float:
        return abs(self.got - self.expected)


def _direction(weight: Weight, draw: int) -> torch.Tensor:
    """Where to move a parameter: as large as it is itself, per element."""
    seed = zlib.crc32(f"{weight.name} {draw}".encode())
    drawn = torch.randn(weight.tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    along = drawn.to(weight.tensor)
    if weight.gradient is not None:
        slope = weight.gradient / weight.gradient.norm() * int(weight.gradient.count_nonzero()) ** 0.5
        along = along + slope
    size = float(weight.tensor.detach().double().pow(2).mean().sqrt()) or 1.0
    return along * size


@dataclass
class _Search:
    loss: Callable[[], float]
    at_rest: float
    noise: float
    largest: float
    evaluations: int = 0
    wrong: list[Disagreement] = field(default_factory=list)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        return self.evaluations >= MOST_EVALUATIONS or len(self.wrong) >= MOST_NAMED

    def compare(self, group: Sequence[Weight], attempt: int) -> _Compared:
        directions = [_direction(weight, attempt) for weight in group]
        shares = tuple(
            0.0 if weight.gradient is None else float((weight.gradient * direction).sum())
            for weight, direction in zip(group, directions, strict=True)
        )
        tensors = [weight.tensor for weight in group]
        shortest = 10 * MARGIN * 4 * self.noise / min(self._least(share, SHARE) for share in shares)
        # Beyond the cube root of the rounding step central differences get worse, whatever rounding comes to.
        longest = float(torch.finfo(tensors[0].dtype).eps) ** (1 / 3)
        step = min(shortest * STEPS[attempt % len(STEPS)], longest)
        found = derivative(self.loss, tensors, directions, step, self.at_rest, self.noise)
        self.evaluations += 4
        return _Compared(sum(shares), found.value, found.error, shares)

    def _least(self, share: float, part: float) -> float:
        """What of a weight's share in a derivative counts."""
        return max(part * abs(share), NEGLIGIBLE * self.largest, 1e-300)

    def disagrees(self, seen: _Compared) -> bool:
        """Whether autograd's derivative is another than the differences', beyond their error."""
        return seen.apart > max(MARGIN * seen.error, min(self._least(share, ROUNDED) for share in seen.shares))

    def undecided_of(self, group: Sequence[Weight], seen: _Compared) -> list[Weight]:
        """The weights whose error would not have shown in a comparison."""
        return [
            weight
            for weight, share in zip(group, seen.shares, strict=True)
            if not MARGIN * seen.error <= self._least(share, SHARE)
        ]

    def examine(self, group: list[Weight]) -> bool:
        """Decide about each weight of a group; gives whether all of them are right."""
        for attempt in range(len(STEPS)):
            if self.spent:
                break
            seen = self.compare(group, attempt)
            if self.disagrees(seen):
                self._separate(group)
                return False
            group = self.undecided_of(group, seen)
            if not group:
                return True
        if self.spent or len(group) == 1:
            self.undecided += [weight.name for weight in group]
            return False
        first, second = map(self.examine, _halves(group))
        return first and second

    def _separate(self, group: list[Weight]) -> None:
        """Name the weights that are wrong in a group in which some are."""
        if self.spent:
            self.groups.append(tuple(weight.name for weight in group))
        elif len(group) == 1:
            self._name(group[0])
        else:
            first, second = _halves(group)
            if self.examine(first):
                self._separate(second)  # as some are wrong, they are there
            else:
                self.examine(second)

    def _name(self, weight: Weight) -> None:
        """Say that a weight is wrong if it is along two directions: along one, something rough may be on the way."""
        seen = [self.compare([weight], attempt) for attempt in (0, len(STEPS))]
        if all(map(self.disagrees, seen)):
            got = None if weight.gradient is None else seen[0].got
            self.wrong.append(Disagreement(weight.name, got, seen[0].expected, seen[0].error))
        else:
            self.undecided.append(weight.name)


def _halves(group: list[Weight]) -> tuple[list[Weight], list[Weight]]:
    middle = len(group) // 2
    return group[:middle], group[middle:]


def search(loss: Callable[[], float], weights: Sequence[Weight]) -> Sought:
    """Find the weights whose gradient is not the derivative of a loss, which is evaluated anew at each call.

    The last of them are looked for first: what loses a gradient on its way loses it for all that comes before.
    """
    at_rest = loss()
    tensors = [weight.tensor for weight in weights]
    noise = max(rounding_noise(loss, tensors), abs(at_rest) * torch.finfo(tensors[0].dtype).eps)
    shares = [
        float((weight.gradient * _direction(weight, 0)).sum()) for weight in weights if weight.gradient is not None
    ]
    largest = max(map(abs, shares), default=0.0)
    # Apart from each other: what has no gradient is mostly all right or all wrong, and each has its own check.
    found = []
    for lost in (True, False):
        looking = _Search(loss, at_rest, noise, largest)
        if group := [weight for weight in weights if (weight.gradient is None) is lost]:
            looking.examine(group[::-1])
        found.append(looking)
    return Sought(
        tuple(item for looking in found for item in looking.wrong),
        tuple(group for looking in found for group in looking.groups),
        tuple(name for looking in found for name in looking.undecided),
    )
