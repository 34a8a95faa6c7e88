"""Counts of events with some events added or removed: a ball of whole numbers in the L1 norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar, final, get_args

import torch
from torch import Tensor

from certsnn.inputsets.base import (
    Domain,
    InputSet,
    check_enumerable,
    check_first,
    check_form,
    check_frames,
    check_like,
    check_place,
    check_size,
    uniform,
)
from certsnn.inputsets.flips import Kind
from certsnn.inputsets.rows import random_budget, rows, trains

Changes = tuple[tuple[int, int], ...]
"""The entries of a sample that change, ascending, and by how many events."""
Room = tuple[int, int, int]
"""An entry of a sample, and how many events it may gain and lose."""


@final
@dataclass(frozen=True)
class EventChanges(InputSet):
    """At most `budget` events of a sample's whole recording added or removed: any, added or dropped.

    Inputs are counts [T, B, ...], whole numbers >= 0 stored as floats. Several events may be added to or
    removed from one entry, and each is one of the budget.

    Args:
        budget: events.
        kind: any, or only added (add), or only removed ones (drop).
        most: the largest count of an entry; None for no limit.
    """

    domain: ClassVar[Domain] = "frames"
    network_input: ClassVar[Domain] = "frames"
    size: ClassVar[str] = "budget"
    grain: ClassVar[float] = 1.0

    budget: int
    kind: Kind = "any"
    most: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget", self.budget), ("most", 0 if self.most is None else self.most)):
            check_size(name, value)
            if not isinstance(value, int):
                raise TypeError(f"{name} is a number of events, an integer, not {value}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}")

    def scaled(self, factor: float) -> EventChanges:
        check_size("factor", factor)
        return replace(self, budget=math.ceil(round(self.budget * factor, 9)))  # see SpikeFlips.scaled

    def describe(self) -> str:
        most = "" if self.most is None else f", most={self.most}"
        return f"EventChanges(budget={self.budget}, kind={self.kind}{most})"

    def check(self, x0: Tensor) -> None:
        check_frames(x0, "counts of events")
        wrong = (x0 != x0.round()) | (x0 < 0)
        if bool(wrong.any()):
            raise ValueError(
                f"counts of events must be whole numbers >= 0, these hold {float(x0[wrong][0]):g}: for other "
                "numbers take LinfFrames"
            )
        if self.most is not None and bool((x0 > self.most).any()):
            raise ValueError(
                f"counts of events reach {float(x0.max()):g}, more than most={self.most}: raise it"
            )
        limit = 2 / torch.finfo(x0.dtype).eps
        largest = float(x0.double().sum(0).max()) + self.budget if x0.numel() else 0.0
        if largest > limit:
            raise ValueError(
                f"an entry may count {largest:g} events over time, and {x0.dtype} is exact up to {limit:g}: "
                "scale the recording down"
            )

    def limits(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """How many events each entry may gain, and lose, at most: whole numbers shaped and typed as x0."""
        nothing, budget = torch.zeros_like(x0), torch.full_like(x0, self.budget)
        room = budget if self.most is None else (self.most - x0).clamp(max=self.budget)
        gain = nothing if self.kind == "drop" else room
        return gain, nothing if self.kind == "add" else torch.minimum(x0, budget)

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        lower, upper = self.box(x0)
        fine = (x == x.round()) & (x >= lower) & (x <= upper)
        return rows(fine).all(dim=1) & (rows((x - x0).abs().double()).sum(dim=1) <= self.budget)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        gain, loss = self.limits(x0)
        return x0 - loss, x0 + gain

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        # sum(A * x) = sum(A * x0) + the sum of A over the events that are added, less that over those that
        # are removed. Where A < 0 only an addition lowers it, elsewhere only a removal: each by |A|, and as
        # often as the entry allows. The entries of largest |A| get as much of the budget as they can take.
        check_form(A, x0)
        gain, loss = self.limits(x0)
        times = torch.where(A < 0, gain, loss)
        change = (-A.abs()).masked_fill(times == 0, 0)
        nominal, change, times = (form.movedim(2, 1).flatten(2) for form in (A * x0, change, times))
        best = change.topk(min(self.budget, change.shape[2]), dim=2, largest=False)
        taken = _within(times.gather(2, best.indices), self.budget)
        return nominal.sum(dim=2) + (best.values * taken.to(A.dtype)).sum(dim=2)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        lower, upper = self.box(x0)
        wanted = x.to(x0.dtype).clamp(lower, upper) - x0
        # Half an event is one: a step of an attack is not lost.
        count, sign = (wanted.abs().double() + 0.5).floor().to(x0.dtype), wanted.sign()
        score = count if score is None else score
        check_like(score, x0, "score")
        return x0 + sign * trains(_kept(rows(count), rows(score), self.budget), x0)

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        gain, loss = self.limits(x0)
        side, share, score = (uniform(x0.shape, x0, generator) for _ in range(3))
        up = torch.where(side < 0.5, gain > 0, loss == 0)
        room = torch.where(up, gain, loss)
        # Mostly one event an entry, sometimes all that it has room for.
        count = (1 + (share.to(x0.dtype) ** 4 * room).floor()).minimum(room)
        budget = random_budget(self.budget, x0, generator).unsqueeze(1)
        kept = trains(_kept(rows(count), rows(score), budget), x0)
        return torch.where(up, x0 + kept, x0 - kept)

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        raise TypeError(f"{self.describe()} holds counts: events are added and removed, not flipped")

    @property
    def reach(self) -> int:
        return 0

    def select(self, mask: Tensor) -> EventChanges:
        return self

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, EventChanges]:
        # The whole budget may be spent on the first steps.
        check_first(x0, steps)
        return x0[:steps], self

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        gains, losses = (rows(limit).long().tolist() for limit in self.limits(x0))
        # An entry without room would only deepen the recursion.
        rooms = [
            [(entry, *ends) for entry, ends in enumerate(zip(*sample, strict=True)) if any(ends)]
            for sample in zip(gains, losses, strict=True)
        ]
        for room in rooms:
            _check_enumerable(room, self.budget)

        def batch(turn: tuple[Changes | None, ...]) -> Tensor:
            """The members that these changes make; x0 where a sample has none left."""
            found = rows(x0).clone()
            for row, changes in zip(found, turn, strict=True):
                for entry, count in changes or ():
                    row[entry] += count
            return trains(found, x0)

        return map(batch, zip_longest(*(_changes(room, 0, self.budget) for room in rooms)))


def _within(counts: Tensor, budget: Tensor | int) -> Tensor:
    """Of the counts along the last axis, the first ones, as far as the budget goes."""
    counts = counts.double()
    before = counts.cumsum(dim=-1) - counts
    return torch.minimum(counts, (budget - before).clamp(min=0))


def _kept(counts: Tensor, score: Tensor, budget: Tensor | int) -> Tensor:
    """Of the counts [B, n], those of highest score, the first ones on a tie, as far as the budget goes."""
    order = score.argsort(dim=1, descending=True, stable=True)
    kept = _within(counts.gather(1, order), budget).to(counts.dtype)
    return torch.zeros_like(counts).scatter(1, order, kept)


def _check_enumerable(room: Sequence[Room], budget: int) -> None:
    """Raise ValueError if there are too many ways to spend at most this budget on these entries."""
    check_enumerable(1 + sum(gain + loss for _, gain, loss in room))
    ways = {0: 1}  # by what has been spent
    for _, gain, loss in room:
        more = dict(ways)
        for spent, times in ways.items():
            for size in range(1, min(max(gain, loss), budget - spent) + 1):
                sides = (gain >= size) + (loss >= size)
                more[spent + size] = more.get(spent + size, 0) + times * sides
            check_enumerable(sum(more.values()))
        ways = more


def _changes(room: Sequence[Room], start: int, budget: int) -> Iterator[Changes]:
    """All ways to spend at most the budget on the entries from this place on, each once; none comes first."""
    yield ()
    for place in range(start, len(room) if budget else 0):
        entry, gain, loss = room[place]
        for count in [*range(1, min(gain, budget) + 1), *range(-1, -min(loss, budget) - 1, -1)]:
            for rest in _changes(room, place + 1, budget - abs(count)):
                yield ((entry, count), *rest)
