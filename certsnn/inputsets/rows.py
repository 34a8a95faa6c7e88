"""Spike trains as rows of bits, one a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certsnn.inputsets.base import uniform


def rows(x: Tensor) -> Tensor:
    """[T, B, ...] as [B, bits], one row a sample."""
    return x.movedim(1, 0).flatten(1)


def count_bits(x: Tensor) -> int:
    """The number of bits in a sample of [T, B, ...]."""
    return len(x) * math.prod(x.shape[2:])


def trains(rows: Tensor, x0: Tensor) -> Tensor:
    """The inverse of `rows`, shaped as x0."""
    return rows.view(x0.movedim(1, 0).shape).movedim(0, 1)


def best_flips(flips: Tensor, score: Tensor, budget: Tensor) -> Tensor:
    """Of the flips [B, bits], the `budget` [B] of highest score, the first ones on a tie."""
    budget = budget.clamp(max=flips.shape[1])
    most = int(budget.max()) if len(budget) else 0
    if most == 0:
        return torch.zeros_like(flips)
    ranked = score.masked_fill(~flips, -torch.inf)
    last = ranked.topk(most, dim=1).values.gather(1, (budget.unsqueeze(1) - 1).clamp(min=0))
    last = last.masked_fill(budget.unsqueeze(1) == 0, torch.inf)
    above, level = flips & (ranked > last), flips & (ranked == last)
    room = budget - above.sum(dim=1)
    crowded = (level.sum(dim=1) > room).nonzero().squeeze(1)
    tied = level[crowded]
    level[crowded] = tied & (tied.cumsum(dim=1) <= room[crowded].unsqueeze(1))
    return above | level


def random_budget(budget: int, x0: Tensor, generator: torch.Generator) -> Tensor:
    """The whole budget or a random part of it, with equal chances, for each sample of x0: int64 [B]."""
    half, part = uniform((2, x0.shape[1]), x0, generator)
    return torch.where(half < 0.5, budget, (part.double() * (budget + 1)).long())
