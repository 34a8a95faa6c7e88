"""The two interfaces, threat and input set, and the checks and helpers that their classes share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, final

import torch
from torch import Tensor

from certsnn.encoding import check_index
from certsnn.inputs import Domain as Domain

ENUMERATION_LIMIT = 2**20


class Threat(ABC):
    """The changes that an adversary may make, for any batch.

    domain: the input of `bind`, "image" ([B, ...], raw units), "spikes" ([T, B, ...], float 0/1) or
        "frames" ([T, B, ...], raw units).
    network_input: the input of a network under this threat, the domain of the set that it binds to.
    size: the name of its size, "eps", "budget", "moved" or "density"; "" for sets of a given batch.
    """

    domain: ClassVar[Domain]
    network_input: ClassVar[Domain]
    size: ClassVar[str]

    @abstractmethod
    def bind(self, x: Tensor, index: Tensor) -> tuple[Tensor, InputSet]:
        """The network's nominal input x0 and the input set around it.

        x is a batch of the threat's domain, index [B] the samples' positions in the data set, on
        which all randomness is keyed. Raises ValueError or TypeError where x or index is unfit.
        """

    @abstractmethod
    def scaled(self, factor: float) -> Threat:
        """The same threat, its size (eps, budget, density) times factor >= 0; budgets round up.

        Size 0 allows x0 alone. Raises ValueError for a negative or non-finite factor.
        """

    @abstractmethod
    def redrawn(self, draw: int) -> Threat:
        """The same threat with fresh randomness: draw 0 is its own, each other number another one.

        Training draws anew every epoch; clean, attacked and certified evaluation share draw 0. Threats
        without randomness return themselves.
        """

    @property
    @final
    def random(self) -> bool:
        """Whether it draws noise, which the samples' positions in the data set key."""
        return self.redrawn(1) is not self

    @abstractmethod
    def describe(self) -> str:
        """A short name for tables, e.g. "LinfBall(eps=0.1)"."""


class InputSet(Threat, ABC):
    """The inputs that an adversary may choose for each sample of a batch; x0 is always one of them.

    x0 must have passed `check`. The batch axis is 0 for images, 1 for spikes and frames.

    grain: the least change of an entry: 1 where members hold whole numbers, 0 where any numbers.
    """

    grain: ClassVar[float]

    @final
    def bind(self, x: Tensor, index: Tensor) -> tuple[Tensor, InputSet]:
        """(x, self): an input set is its own threat; nothing is keyed on index."""
        self.check(x)
        check_index(index, x.shape[self.batch_axis])
        return x, self

    @final
    def redrawn(self, draw: int) -> InputSet:
        """Itself: nothing is random about an input set."""
        return self

    @final
    @property
    def batch_axis(self) -> int:
        """The axis of the samples in x0."""
        return 0 if self.domain == "image" else 1

    @abstractmethod
    def check(self, x0: Tensor) -> None:
        """Raise ValueError or TypeError unless x0 is a valid input."""

    @abstractmethod
    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        """Whether each sample of x (shaped as x0) is a member: bool [B]. NaN never is."""

    @abstractmethod
    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The tight elementwise (lower, upper) over the members, shaped and typed as x0."""

    @abstractmethod
    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        """The minimum [S, B] of sum(A * x) over the members x; differentiable in A.

        Attained, or a lower bound of it where the class says so.

        A is [S, B, ...] for images, [S, T, B, ...] for spikes and frames. Evaluated in the wider of the two
        dtypes, as a sum of at most two terms for each entry of A, none larger than
        |A| * max(|lower|, |upper|) of the box: rounding is the caller's to account for. Raises
        ValueError on a wrong shape.
        """

    @abstractmethod
    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        """A member near x (shaped as x0), in x0's dtype; members stay as they are.

        score, shaped as x0, is the worth of each change where not all can be kept; sets with nothing to
        choose ignore it. Raises ValueError on NaN or a wrong shape.
        """

    @abstractmethod
    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """A random member for each sample, spread over the inside and the extremes of the set."""

    @abstractmethod
    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        """The spikes of the member x (shaped as x0) whose flip alone makes another member: bool.

        Raises TypeError for a set of images or frames, which have no spikes.
        """

    @property
    @abstractmethod
    def reach(self) -> int:
        """The steps that a spike may move, where flips alone lead nowhere; 0 where they lead everywhere."""

    @abstractmethod
    def select(self, mask: Tensor) -> InputSet:
        """The set of those of the batch's samples that the boolean mask [B] names."""

    @abstractmethod
    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, InputSet]:
        """The first steps of x0, and the set of the members' first steps; images stay as they are.

        A larger set where the class says so.

        Raises ValueError unless the sequence has that many steps.
        """

    @abstractmethod
    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        """Batches shaped as x0 that run through each sample's members, each once, then repeat x0.

        Raises ValueError, when called, if a sample has more than 2**20 members or infinitely many.
        """


def check_size(name: str, value: float) -> None:
    """Raise TypeError or ValueError unless value is a finite number >= 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, not {value}")


def check_unscaled(factor: float, advice: str) -> None:
    """Raise ValueError with the advice unless the factor is 1, for sets of a given batch."""
    check_size("factor", factor)
    if factor != 1:
        raise ValueError(advice)


def check_spikes(x: Tensor, name: str = "spikes") -> None:
    """Raise TypeError or ValueError unless x holds spikes: [T, B, ...], T >= 1, float 0/1."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor of 0 and 1, not {kind}: x.float()")
    if x.dim() < 3 or x.shape[0] == 0:
        raise ValueError(
            f"{name} must have shape [T, B, ...] with T >= 1, not {list(x.shape)}: add the time or batch axis"
        )
    if bool(x.isnan().any()):
        raise ValueError(f"{name} hold NaN")
    if not bool(((x == 0) | (x == 1)).all()):
        raise ValueError(f"{name} must be binary (0 or 1): encode images first")


def check_frames(x: Tensor, name: str = "frames") -> None:
    """Raise TypeError or ValueError unless x is a sequence [T, B, ...], T >= 1, of finite floats."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, not {kind}: x.float()")
    if x.dim() < 3 or x.shape[0] == 0:
        raise ValueError(
            f"{name} must have shape [T, B, ...] with T >= 1, not {list(x.shape)}: add the time or batch axis"
        )
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinite values")


def check_like(x: Tensor, x0: Tensor, name: str) -> None:
    """Raise ValueError unless x has x0's shape and device and no NaN."""
    check_place(x, x0, name)
    if bool(x.isnan().any()):
        raise ValueError(f"{name} holds NaN")


def check_place(x: Tensor, x0: Tensor, name: str) -> None:
    """Raise ValueError unless x has x0's shape and device."""
    if x.shape != x0.shape:
        raise ValueError(f"{name} has shape {list(x.shape)}, expected {list(x0.shape)}")
    if x.device != x0.device:
        raise ValueError(f"{name} is on {x.device}, the input on {x0.device}: move one of them")


def check_form(A: Tensor, x0: Tensor) -> None:
    """Raise ValueError or TypeError unless A holds coefficients [S, *x0.shape] of linear forms."""
    if not A.is_floating_point():
        raise TypeError(f"coefficients must be floating point, not {A.dtype}")
    if A.shape[1:] != x0.shape or A.dim() != x0.dim() + 1:
        raise ValueError(f"coefficients have shape {list(A.shape)}, expected [S, *{list(x0.shape)}]")


def check_mask(mask: Tensor, batch: int) -> None:
    """Raise ValueError unless mask is a boolean tensor [batch]."""
    if mask.dtype != torch.bool or mask.shape != (batch,):
        raise ValueError(f"the mask must be a boolean tensor [{batch}], not {mask.dtype} {list(mask.shape)}")


def check_first(x0: Tensor, steps: int) -> None:
    """Raise ValueError unless the sequence x0 [T, B, ...] has 1 <= steps <= T."""
    if not 1 <= steps <= len(x0):
        raise ValueError(f"the first {steps} steps are asked for, these sequences have {len(x0)}")


def check_enumerable(members: float) -> None:
    """Raise ValueError when a sample has more members than enumeration allows."""
    if members > ENUMERATION_LIMIT:
        raise ValueError(
            f"a sample has more than {ENUMERATION_LIMIT} members, too many to enumerate: "
            "use a smaller set or a smaller input"
        )


def box_minimum(A: Tensor, lower: Tensor, upper: Tensor, batch_axis: int) -> Tensor:
    """min sum(A * x) over lower <= x <= upper, A+ . lower + A- . upper, [S, B]."""
    return torch.minimum(A * lower, A * upper).movedim(1 + batch_axis, 1).flatten(2).sum(dim=2)


def uniform(shape: tuple[int, ...] | torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 numbers in [0, 1), drawn on the generator's device and moved to `like`'s."""
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)


def mixture(x0: Tensor, inner: Tensor, corner: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample at random: inner, corner, or a random share of corner's entries over x0.

    All [B, ...]; a member of any set whose entries move independently, if the three are.
    """
    each = (x0.shape[0], *[1] * (x0.dim() - 1))
    way = uniform(each, x0, generator)
    sparse = torch.where(uniform(x0.shape, x0, generator) < uniform(each, x0, generator), corner, x0)
    return torch.where(way < 1 / 3, inner, torch.where(way < 2 / 3, corner, sparse))
