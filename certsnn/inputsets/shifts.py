r"""Spike trains with some spikes delayed or advanced.

A member x is made of x0 by giving each spike a bit of its own pixel's train: the same step, or for at most
`moved` spikes of a sample another one, at most `max_shift` steps earlier or later; no two spikes share a bit.
So a spike lands on a free bit, or on one whose own spike moves away, it never leaves the train, and every
pixel keeps its number of spikes.

Spikes that stay, F, must leave the others matched in their order, each within the shift d. With the numbers
:math:`N_0(t), N(t)` of spikes of x0 and x up to step t, that is

.. math:: |F \cap (t - d, t]| \le \min(N(t) - N_0(t - d),\ N_0(t) - N(t - d)) \quad \text{for all } t,

unit intervals of one length under capacities: the greedy choice, earliest first, keeps the most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import ClassVar, final

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
from certsnn.inputsets.flips import SpikeFlips
from certsnn.inputsets.rows import best_flips, count_bits, random_budget, rows, trains

Change = tuple[tuple[int, ...], int]
"""The places of one pixel's spikes, and the number of those that have moved."""


def shifted(x: Tensor, offset: int, fill: float, dim: int = 0) -> Tensor:
    """The values at the steps t + offset along a dimension, `fill` beyond its ends."""
    gone = min(abs(offset), x.shape[dim])
    edge = torch.full_like(x.narrow(dim, 0, gone), fill)
    inner = x.narrow(dim, gone if offset > 0 else 0, x.shape[dim] - gone)
    return torch.cat([edge, inner] if offset < 0 else [inner, edge], dim)


def _near(x: Tensor, offsets: Sequence[int]) -> Tensor:
    """Whether a boolean train [T, ...] is set at any of these offsets from each step."""
    found = torch.zeros_like(x)
    for offset in offsets:
        found = found | shifted(x, offset, False)
    return found


@final
@dataclass(frozen=True)
class SpikeShift(InputSet):
    """Up to `moved` spikes of a sample delayed or advanced by at most `max_shift` steps.

    The module's docstring has the definition. `minimum` is a lower bound, not always attained: it lets two
    moved spikes share a bit or a place that they left, whichever of the two is the tighter.
    """

    domain: ClassVar[Domain] = "spikes"
    network_input: ClassVar[Domain] = "spikes"
    size: ClassVar[str] = "moved"
    grain: ClassVar[float] = 1.0

    max_shift: int
    moved: int

    def __post_init__(self) -> None:
        for name, what in (("max_shift", "steps"), ("moved", "spikes")):
            value = getattr(self, name)
            check_size(name, value)
            if not isinstance(value, int):
                raise TypeError(f"{name} is a number of {what}, an integer, not {value}")

    def scaled(self, factor: float) -> SpikeShift:
        check_size("factor", factor)
        return replace(self, moved=math.ceil(round(self.moved * factor, 9)))  # see SpikeFlips.scaled

    def describe(self) -> str:
        return f"SpikeShift(max_shift={self.max_shift}, moved={self.moved})"

    def check(self, x0: Tensor) -> None:
        check_spikes(x0)

    @property
    def reach(self) -> int:
        return self.max_shift

    def contains(self, x0: Tensor, x: Tensor) -> Tensor:
        check_place(x, x0, "x")
        binary = rows((x == 0) | (x == 1)).all(dim=1)
        moves = _moves(x0 == 1, x == 1, self.max_shift).flatten(1)
        return binary & (moves >= 0).all(dim=1) & (moves.sum(dim=1) <= self.moved)

    def box(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        arriving = (x0 == 0) & _near(x0 == 1, self._offsets(x0))
        return x0.masked_fill(self._leaving(x0, self.moved), 0), x0.masked_fill(arriving, 1)

    def _leaving(self, x0: Tensor, moves: int) -> Tensor:
        """The spikes that this number of moves can take from their bits, leaving them free."""
        spikes, offsets = x0 == 1, self._offsets(x0)
        found = torch.zeros_like(spikes)
        # A chain of spikes, each in the next one's place, that ends on a free bit.
        for _ in range(min(moves, len(x0))):
            found = found | (spikes & _near(~spikes | found, offsets))
        return found

    def allowed(self, x0: Tensor) -> Tensor:
        """Which bits differ from x0 in some member: bool, shaped as x0."""
        lower, upper = self.box(x0)
        return lower != upper

    def minimum(self, A: Tensor, x0: Tensor) -> Tensor:
        # sum(A * x) = sum(A * x0) + the sum of A[to] - A[from] over the moved spikes, of which no two come
        # from the same bit and no two go to the same. Giving up either one leaves the other's least sum.
        check_form(A, x0)
        spikes = x0 == 1
        # A spike may land where another one can have left with one move less.
        closed = spikes & ~self._leaving(x0, self.moved - 1)
        coming, going = A.masked_fill(closed, torch.inf), A.masked_fill(~spikes, -torch.inf)
        least, most = torch.full_like(A, torch.inf), torch.full_like(A, -torch.inf)
        for offset in self._offsets(x0):
            least = torch.minimum(least, shifted(coming, offset, torch.inf, 1))
            most = torch.maximum(most, shifted(going, offset, -torch.inf, 1))
        count = min(self.moved, count_bits(x0))
        sums = []
        for change in ((least - A).masked_fill(~spikes, 0), (A - most).masked_fill(closed, 0)):
            flat = change.clamp(max=0).movedim(2, 1).flatten(2)
            sums.append(flat.topk(count, dim=2, largest=False).values.sum(dim=2))
        # An entry may be counted more often than the caller's rounding terms assume, so the rounding error of
        # this sum is taken off.
        size = 2 * A.detach().abs().movedim(2, 1).flatten(2).amax(dim=2) if A[0].numel() else 0
        slack = torch.finfo(A.dtype).eps * count * (count + 1) * size
        nominal = (A * x0).movedim(2, 1).flatten(2).sum(dim=2)
        return nominal + (torch.maximum(*sums) - slack)

    def project(self, x0: Tensor, x: Tensor, score: Tensor | None = None) -> Tensor:
        check_like(x, x0, "x")
        score = torch.zeros_like(x0) if score is None else score
        check_like(score, x0, "score")
        spikes, wanted = x0 == 1, x > 0.5
        member = self.contains(x0, wanted.to(x0.dtype))
        # Spikes that should go are paired with bits that should be set, the nearest first; then those that
        # are left with any free bit, and bits that should be set with any spike: either is as near to x.
        sources, goals = [spikes & ~wanted, spikes & wanted], [~spikes & wanted, ~spikes & ~wanted]
        moves = [(a, b, offset) for a, b in ((0, 0), (0, 1), (1, 0)) for offset in self._offsets(x0)]
        pairs, worth = [], []
        for a, b, offset in moves:
            pair = sources[a] & shifted(goals[b], offset, False)
            sources[a], goals[b] = sources[a] & ~pair, goals[b] & ~shifted(pair, -offset, False)
            pairs.append(pair)
            worth.append((a == 0) * score + (b == 0) * shifted(score, offset, 0))
        moved = x0
        if pairs:
            budget = torch.full((x0.shape[1],), self.moved, device=x0.device)
            flat, worth_flat = torch.cat(pairs), torch.cat(worth)
            kept = trains(best_flips(rows(flat), rows(worth_flat), budget), flat).split(len(x0))
            for (_, _, offset), pair in zip(moves, kept, strict=True):
                moved = moved.masked_fill(pair, 0).masked_fill(shifted(pair, -offset, False), 1)
        return torch.where(self._aligned(member, x0), wanted.to(x0.dtype), moved)

    def sample(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        budget = random_budget(self.moved, x0, generator)
        # Twice each offset, so that a spike may follow into a place that another one has left.
        offsets = 2 * self._offsets(x0)
        order = torch.randperm(len(offsets), generator=generator, device=generator.device).tolist()
        x, still = x0, x0 == 1
        for turn in order:
            offset = offsets[turn]
            free = still & shifted(x == 0, offset, False)
            score, eager = (uniform(x0.shape, x0, generator) for _ in range(2))
            share = uniform((x0.shape[1],), x0, generator) if turn else torch.ones_like(budget)
            free = free & (eager < self._aligned(share, x0))
            chosen = trains(best_flips(rows(free), rows(score), budget), x0)
            budget = budget - rows(chosen).sum(dim=1)
            x = x.masked_fill(chosen, 0).masked_fill(shifted(chosen, -offset, False), 1)
            still = still & ~chosen
        return x

    def flippable(self, x0: Tensor, x: Tensor) -> Tensor:
        check_like(x, x0, "x")
        return torch.zeros_like(x0, dtype=torch.bool)  # a flip alone changes the number of spikes

    def select(self, mask: Tensor) -> SpikeShift:
        return self

    def first(self, x0: Tensor, steps: int) -> tuple[Tensor, InputSet]:
        """A cover: each moved spike changes at most two of the first bits."""
        check_first(x0, steps)
        if steps == len(x0):
            return x0, self
        x0 = x0[:steps]
        return x0, SpikeFlips(min(2 * self.moved, count_bits(x0)))

    def enumerate(self, x0: Tensor) -> Iterator[Tensor]:
        samples = [self._members(train.movedim(0, -1).flatten(0, -2)) for train in x0.movedim(1, 0)]
        most = max((len(members) for members in samples), default=0)
        pixels = x0[0, 0].numel()

        def batch(turn: int) -> Tensor:
            """Each sample's member of this number; x0 beyond the last."""
            found = x0.movedim(0, -1).flatten(1, -2).clone()  # [B, pixels, T]
            for b, members in enumerate(samples):
                for pixel, spikes in members[turn] if turn < len(members) else ():
                    found[b, pixel] = 0
                    found[b, pixel, list(spikes)] = 1
            return found.view(x0.shape[1], *x0.shape[2:], len(x0)).movedim(-1, 0)

        return (batch(turn) for turn in range(most if pixels else 0))

    def _members(self, train: Tensor) -> list[list[tuple[int, tuple[int, ...]]]]:
        """All members of one sample [pixels, T], as the pixels that change and their spikes."""
        options = [self._options(tuple(bits.nonzero().flatten().tolist()), len(bits)) for bits in train]
        members = [1] + self.moved * [0]  # by the number of moves
        for pixel in options:
            counts = Counter(count for _, count in pixel)
            members = [
                members[n] + sum(members[n - count] * times for count, times in counts.items() if count <= n)
                for n in range(self.moved + 1)
            ]
            check_enumerable(sum(members))
        found: list[tuple[list[tuple[int, tuple[int, ...]]], int]] = [([], 0)]
        for number, pixel in enumerate(options):
            found += [
                ([*before, (number, places)], used + count)
                for before, used in found
                for places, count in pixel
                if used + count <= self.moved
            ]
        return [changes for changes, _ in found]

    def _options(self, spikes: tuple[int, ...], steps: int) -> list[Change]:
        """The other trains of one pixel, with the least number of moved spikes that each takes."""
        placed: dict[tuple[int, ...], int] = {(): 0}  # of the spikes so far
        for home in spikes:
            more: dict[tuple[int, ...], int] = {}
            for places, used in placed.items():
                reach = self.max_shift if used < self.moved else 0
                for step in range(max(0, home - reach), min(steps, home + reach + 1)):
                    if step not in places:
                        train, count = tuple(sorted((*places, step))), used + (step != home)
                        more[train] = min(count, more.get(train, count))
            check_enumerable(len(more))
            placed = more
        del placed[spikes]
        return list(placed.items())

    def _offsets(self, x0: Tensor) -> list[int]:
        """1, -1, 2, -2, ...: the shifts that the train has room for."""
        if self.moved == 0:
            return []
        reach = range(1, min(self.max_shift, len(x0) - 1) + 1)
        return [signed for offset in reach for signed in (offset, -offset)]

    def _aligned(self, values: Tensor, x0: Tensor) -> Tensor:
        """Values ``[B]`` of samples, shaped to broadcast against x0."""
        return values.view(1, -1, *repeat(1, x0.dim() - 2))


def _moves(spikes: Tensor, others: Tensor, max_shift: int) -> Tensor:
    """The number of spikes [T, ...] that must move to give the others [T, ...]; -1 where none within
    max_shift do."""
    if max_shift == 0:
        same = (spikes == others).all(dim=0)
        return same.long() - 1
    before, after = (_counts(x, max_shift) for x in (spikes, others))
    steps = len(spikes)
    # Entry t of `room` is for the window (t + 1 - d, t + 1] of steps counted from 1.
    now, past = slice(max_shift + 1, None), slice(1, steps + max_shift)
    room = torch.minimum(after[now] - before[past], before[now] - after[past])
    possible = (room >= 0).all(dim=0) & (before[-1] == after[-1])
    staying = torch.zeros_like(before[0])
    for step in range(steps):
        window = room[step : step + max_shift]
        stays = spikes[step] & others[step] & (window.amin(dim=0) > 0)
        window -= stays.long()
        staying += stays
    return torch.where(possible, before[-1] - staying, -1)


def _counts(spikes: Tensor, pad: int) -> Tensor:
    """The numbers of spikes up to the steps -pad .. T + pad - 1, counted from 1: [T + 2 pad, ...]."""
    counts = spikes.long().cumsum(dim=0)
    none = torch.zeros_like(counts[:1]).expand(pad + 1, *counts.shape[1:])
    return torch.cat([none, counts, counts[-1:].expand(pad - 1, *counts.shape[1:])])
