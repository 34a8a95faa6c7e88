"""Spike trains with some bits free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from certsnn.encoding import check_index, check_seed, keyed_uniform, redrawn_seed
from certsnn.inputsets.base import (
    Domain,
    InputSet,
    Threat,
    box_minimum,
    check_enumerable,
    check_first,
    check_form,
    check_like,
    check_mask,
    check_place,
    check_size,
    check_spikes,
    check_unscaled,
    uniform,
)

# Bernoulli noise is stream 0; sharing it would tie which bits are free to which bits are set.
_FREE_STREAM = 1


@final
@dataclass(frozen=True, eq=False)
class SpikeBox(InputSet):
    """All spikes between two binary tensors lower <= upper, [T, B, ...], of the batch at hand."""

    domain: ClassVar[Domain] = "spikes"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = ""
    grain: ClassVar[float] = 1.0

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        check_spikes(self.lower, "lower spikes")
        check_spikes(self.upper, "upper spikes")
        check_place(self.upper, self.lower, "upper")
        if bool((self.lower > self.upper).any()):
            raise ValueError("lower exceeds upper at some bits of the SpikeBox")

    def scaled(self, factor: float) -> SpikeBox:
        """Itself for factor 1; raises ValueError for any other: a given box has no size."""
        check_unscaled(factor, "a SpikeBox of given bits cannot be scaled: use FreeSpikes(density)")
        return self

    def describe(self) -> str:
        free = float((self.lower != self.upper).double().mean())
        return f"SpikeBox(free={free:.3g})"

    def check(self, x0: Tensor) -> None:
        check_spikes(x0)
        check_place(x0, self.lower, "the input of this SpikeBox")
        if not bool(((x0 >= self.lower) & (x0 <= self.upper)).all()):
            raise ValueError("the nominal spikes lie outside the SpikeBox")

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        member = ((x == 0) | (x == 1)) & (x >= self.lower) & (x <= self.upper)
        return member.movedim(1, 0).flatten(1).all(dim=1)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return self.lower.to(x0.dtype), self.upper.to(x0.dtype)

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        check_form(A, x0)
        return box_minimum(A, *self.box(x0), self.batch_axis)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        return (x > 0.5).to(x0.dtype).clamp(*self.box(x0))

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        # A random share of set bits for each sample, so that both ends of the box come up too.
        share = uniform((x0.shape[1], *[1] * (x0.dim() - 2)), x0, generator)
        bits = uniform(x0.shape, x0, generator) < share
        return bits.to(x0.dtype).clamp(*self.box(x0))

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        check_like(x, x0, "x")
        return self.lower != self.upper

    @property
    def reach(self) -> int:
        return 0

    def select(self, mask: Tensor) -> SpikeBox:
        check_mask(mask, self.lower.shape[1])
        return SpikeBox(self.lower[:, mask], self.upper[:, mask])

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, SpikeBox]:
        check_first(x0, steps)
        return x0[:steps], SpikeBox(self.lower[:steps], self.upper[:steps])

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        lower, upper = (bound.movedim(1, 0) for bound in self.box(x0))
        free = (lower != upper).flatten(1)
        place = (free.cumsum(dim=1) - 1).clamp(min=0)  # a free bit's number among its sample's
        counts = free.sum(dim=1)
        most = int(counts.max()) if len(counts) else 0
        check_enumerable(2**most)

        def member(code: int) -> Tensor:
            """Each sample's member with the digits of the code as its free bits; x0 beyond the last."""
            bits = ((code >> place) & 1 == 1) & free
            x = torch.where(bits.view(upper.shape), upper, lower)
            in_range = (code >> counts) == 0
            return torch.where(in_range.view(-1, *[1] * (x0.dim() - 2)), x.movedim(0, 1), x0)

        return (member(code) for code in range(2**most))


@final
@dataclass(frozen=True)
class FreeSpikes(Threat):
    """Frees about a share `density` of all bits of each sample, drawn by (seed, index).

    A bit is free if its uniform number is less than density, so a lower density frees fewer of the
    same bits. The N-MNIST threat of the S-IBP / S-CROWN authors' code.
    """

    domain: ClassVar[Domain] = "spikes"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = "density"

    density: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_size("density", self.density)
        check_seed(self.seed)
        if self.density > 1:
            raise ValueError(f"density is a share of the bits, at most 1, not {self.density}")

    def scaled(self, factor: float) -> FreeSpikes:
        """The threat with density times factor, at most 1."""
        check_size("factor", factor)
        return replace(self, density=min(1.0, self.density * factor))

    def redrawn(self, draw: int) -> FreeSpikes:
        return replace(self, seed=redrawn_seed(self.seed, draw))

    def describe(self) -> str:
        return f"FreeSpikes(density={self.density:g}, seed={self.seed})"

    def bind(self, x: Tensor, index: Tensor) -> tuple[Tensor, SpikeBox]:
        check_spikes(x)
        check_index(index, x.shape[1])
        shape = (x.shape[0], *x.shape[2:])
        draw = keyed_uniform(shape, self.seed, index, stream=_FREE_STREAM, device=x.device)
        free = (draw < self.density).to(x.dtype)
        return x, SpikeBox(x * (1 - free), torch.maximum(x, free))
