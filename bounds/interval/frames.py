r"""What drives the first layer where frames of numbers enter, and where counts of events change.

Real numbers may be negative, so in the count domain the magnitudes of the frames are summed up beside the
frames themselves: rounding errors are relative to :math:`\sum_t |W| |x_t|`, not to :math:`|W| |\sum_t x_t|`.

Where at most k events are added or removed, each of them moves a current by its entry's weight, as often as
the entry has room for it. The m-th event of an entry competes for the budget only together with the m - 1
before it, so at most k / m of the m-th ones are among the best k: for each m the best k / m gains among the
entries with room for m are ranked, and of all of these the best k are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Weighted
from certsnn.bounds.interval.arithmetic import Arithmetic, Enclosure, Interval
from certsnn.bounds.interval.flips import ChangedSpikes
from certsnn.bounds.interval.layers import Independent, Operators, step_numbers
from certsnn.bounds.interval.scans import Summed
from certsnn.bounds.interval.topk import Best, Gains, Ranking, best_so_far, in_pieces, outputs_of
from certsnn.inputsets import EventChanges

SUM_UNIT = 2.0**-52
"""More than a float64 addition rounds, relative to its result."""


@final
@dataclass(frozen=True)
class BoundedFrames(Independent):
    """Frames of any numbers."""

    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Summed:
        low, high = (arithmetic.raised(end) for end in self.interval)
        size = torch.maximum(-low, high).cumsum(0)
        times = step_numbers(low, self.steps)
        sums = Interval(low.cumsum(0), high.cumsum(0))
        if arithmetic.unit:
            # Sums of t numbers, which whole numbers are exact in and others are not.
            lost = SUM_UNIT * size * times.view(-1, *[1] * (size.ndim - 1))
            sums = Interval(sums.lower - lost, sums.upper + lost)
        rows = Enclosure(Interval(*(end.flatten(0, 1) for end in sums)), size.flatten(0, 1))
        low, high = arithmetic.resume(operators, rows, times.repeat_interleave(size.shape[1]))
        return Summed(Interval(low.unflatten(0, size.shape[:2]), high.unflatten(0, size.shape[:2])))


@final
@dataclass(frozen=True)
class ChangedCounts(ChangedSpikes):
    """Counts ``[T, B, ...]`` of which at most ``changes.budget >= 1`` events change, over all steps."""

    x0: Tensor
    changes: EventChanges
    ranking: Ranking

    def box(self) -> Interval:
        return Interval(*self.changes.box(self.x0))

    def moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        levels = self._levels()

        def step(best: Best, more: Tensor, less: Tensor) -> tuple[Best, Gains]:
            return best, Gains(*(gain.sum(0) for gain in self._ranked(operator, more, less, levels)))

        return in_pieces(self._limits(operator, shaped), self._numbers(operator, shaped), step)

    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        levels = self._levels()

        def step(best: Best, more: Tensor, less: Tensor) -> tuple[Best, Gains]:
            return best_so_far(
                best, self._ranked(operator, more, less, levels), len(more), self.changes.budget
            )

        return in_pieces(self._limits(operator, shaped), self._numbers(operator, shaped), step)

    def _levels(self) -> list[int]:
        """The numbers of events that some entry has room for, ascending."""
        limits = self.changes.limits(self.x0)
        levels = torch.cat([limit.unique() for limit in limits]).unique().tolist()
        return [int(level) for level in levels if level > 0]

    def _limits(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The events that each entry has room for: further ones, and ones to remove."""
        return [shaped(limit.to(operator.rows.dtype)) for limit in self.changes.limits(self.x0)]

    def _numbers(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> int:
        alive = sum(self.changes.budget // m for m in range(1, max(self._levels(), default=0) + 1))
        return self.ranking.numbers(outputs_of(operator, shaped(self.x0[:1, :1])[0]), alive)

    def _ranked(self, operator: Weighted, more: Tensor, less: Tensor, levels: Sequence[int]) -> Gains:
        """The best gains of single events, at most the budget of them at each step."""
        budget, kind = self.changes.budget, self.changes.kind
        parts: list[Gains] = []
        start = 0
        # The entries with room for m events are the same for all m from one level to the next.
        for level in levels:
            gained, lost = ((limit >= level).to(operator.rows.dtype) for limit in (more, less))
            best = self.ranking(operator, gained, lost, kind, budget // (start + 1))
            parts += [Gains(*(gain[: budget // m] for gain in best)) for m in range(start + 1, level + 1)]
            start = level
        rise, fall = (torch.cat(gains) for gains in zip(*parts, strict=True))
        count = min(budget, len(rise))
        return Gains(*(gain.topk(count, dim=0).values for gain in (rise, fall)))
