"""Spike trains within a number of flipped bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from typing import ClassVar, Literal, final, get_args

import torch
from torch import Tensor

from certsnn.inputsets.base import (
    Domain,
    InputSet,
    check_enumerable,
    check_first,
    check_form,
    check_like,
    check_place,
    check_size,
    check_spikes,
    uniform,
)
from certsnn.inputsets.rows import best_flips, count_bits, random_budget, rows, trains

Kind = Literal["any", "add", "drop"]


@final
@dataclass(frozen=True)
class SpikeFlips(InputSet):
    """At most `budget` bits of a sample's whole train [T, ...] flipped: any, added or dropped."""

    domain: ClassVar[Domain] = "spikes"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = "budget"
    grain: ClassVar[float] = 1.0

    budget: int
    kind: Kind = "any"

    def __post_init__(self) -> None:
        check_size("budget", self.budget)
        if not isinstance(self.budget, int):
            raise TypeError(f"budget is a number of bits, an integer, not {self.budget}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")

    def scaled(self, factor: float) -> SpikeFlips:
        check_size("factor", factor)
        # Rounded to 9 places first: 100 * 0.07 is 7.000000000000001 in float64, and means 7.
        return replace(self, budget=math.ceil(round(self.budget * factor, 9)))

    def describe(self) -> str:
        return f"SpikeFlips(budget={self.budget}, kind={self.kind})"

    def check(self, x0: Tensor) -> None:
        check_spikes(x0)
        bits = count_bits(x0)
        if x0.shape[1] > 0 and self.budget > bits:
            raise ValueError(
                f"the budget of {self.budget} flips exceeds the {bits} bits of a sample: lower it"
            )

    def allowed(self, x0: Tensor) -> Tensor:
        """Which bits may flip: bool, shaped as x0."""
        if self.kind == "any":
            return torch.ones_like(x0, dtype=torch.bool)
        return x0 == (0 if self.kind == "add" else 1)

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        flipped = x != x0
        fine = ((x == 0) | (x == 1)) & (self.allowed(x0) | ~flipped)
        return rows(fine).all(dim=1) & (rows(flipped).sum(dim=1) <= self.budget)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        movable = self.allowed(x0) if self.budget > 0 else torch.zeros_like(x0, dtype=torch.bool)
        return x0.masked_fill(movable, 0), x0.masked_fill(movable, 1)

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        # sum(A * x) = sum(A * x0) + the sum of A * (1 - 2 x0) over the flipped bits: take the most
        # negative of these changes, as many as the budget allows.
        check_form(A, x0)
        change = (A * (1 - 2 * x0)).masked_fill(~self.allowed(x0), 0).clamp(max=0)
        nominal, change = ((form.movedim(2, 1).flatten(2)) for form in (A * x0, change))
        return nominal.sum(dim=2) + change.topk(self.budget, dim=2, largest=False).values.sum(dim=2)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        score = torch.zeros_like(x0) if score is None else score
        check_like(score, x0, "score")
        flips = ((x > 0.5) != (x0 == 1)) & self.allowed(x0)
        budget = torch.full((x0.shape[1],), self.budget, device=x0.device)
        kept = trains(best_flips(rows(flips), rows(score), budget), x0)
        return torch.where(kept, 1 - x0, x0)

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        budget = random_budget(self.budget, x0, generator)
        score = uniform(x0.shape, x0, generator)
        flips = trains(best_flips(rows(self.allowed(x0)), rows(score), budget), x0)
        return torch.where(flips, 1 - x0, x0)

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        # Undoing a flip is always allowed, another flip while the budget lasts.
        check_like(x, x0, "x")
        flipped = x != x0
        room = rows(flipped).sum(dim=1) < self.budget
        return flipped | (self.allowed(x0) & room.view(1, -1, *[1] * (x0.dim() - 2)))

    @property
    def reach(self) -> int:
        return 0

    def select(self, mask: Tensor) -> SpikeFlips:
        return self

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, SpikeFlips]:
        # The whole budget may be spent on the first steps, as far as they have bits.
        check_first(x0, steps)
        x0 = x0[:steps]
        return x0, replace(self, budget=min(self.budget, count_bits(x0)))

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        allowed = rows(self.allowed(x0))
        counts = allowed.sum(dim=1)
        most = int(counts.max()) if len(counts) else 0
        sizes = range(min(self.budget, most) + 1)
        for members in accumulate(math.comb(most, size) for size in sizes):
            check_enumerable(members)
        order = (~allowed).to(torch.uint8).argsort(dim=1, stable=True)  # allowed bits first

        def member(chosen: tuple[int, ...]) -> Tensor:
            """x0 with these of each sample's allowed bits flipped; x0 where it has fewer."""
            # Numbers beyond a sample's allowed bits mean that its members are exhausted.
            exists = (counts > chosen[-1]) if chosen else torch.zeros_like(counts, dtype=torch.bool)
            flips = torch.zeros_like(allowed).scatter(1, order[:, list(chosen)], True)
            return torch.where(trains(flips & exists.unsqueeze(1), x0), 1 - x0, x0)

        return (member(chosen) for size in sizes for chosen in combinations(range(most), size))
