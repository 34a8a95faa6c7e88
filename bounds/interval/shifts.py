r"""Currents of the first weighted layer where some spikes are delayed or advanced.

One move changes at most one bit of a step, so a current rises by at most the sum of the ``moved`` largest
gains among the bits that any member changes. It changes the count of spikes so far of at most one pixel, by
one, and only at the steps between the two bits: a cumulative current rises by at most the ``moved`` largest
gains among those pixels, each counted as often as the count of the pixel can rise (or fall) at all. With the
spikes n of x0 and the bits that any member sets (a) or clears (c), summed over steps, that is at step t

.. math:: \min(n(t, t + d],\ a[1, t],\ c(t, T]) \quad \text{and} \quad \min(n(t - d, t],\ a(t, T],\ c[1, t])

times. At the last step it is 0: moves leave the totals as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Weighted
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.flips import ChangedSpikes
from certsnn.bounds.interval.topk import Best, Gains, Ranking, in_pieces, outputs_of
from certsnn.inputsets import SpikeShift


@final
@dataclass(frozen=True)
class ShiftedSpikes(ChangedSpikes):
    """Spikes ``[T, B, ...]`` of which at most ``shift.moved >= 1`` are moved, over all steps together."""

    x0: Tensor
    shift: SpikeShift
    ranking: Ranking

    def box(self) -> Interval:
        return Interval(*self.shift.box(self.x0))

    def moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        low, high = self.box()

        def step(best: Best, added: Tensor, dropped: Tensor) -> tuple[Best, Gains]:
            return best, Gains(*(gain.sum(0) for gain in self._ranked(operator, added, dropped)))

        bits = [shaped(changed.to(operator.rows.dtype)) for changed in (high > self.x0, low < self.x0)]
        return in_pieces(bits, self._numbers(operator, shaped), step)

    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        more, less = self._counts()
        # A count that can change by m is m candidates of one weight.
        most = max(1, min(self.shift.moved, int(torch.maximum(more, less).amax())))

        def step(best: Best, more: Tensor, less: Tensor) -> tuple[Best, Gains]:
            dtype = operator.rows.dtype
            gains = [
                self._ranked(operator, (more >= m).to(dtype), (less >= m).to(dtype))
                for m in range(1, most + 1)
            ]
            rise, fall = (torch.cat(parts) for parts in zip(*gains, strict=True))
            count = min(self.shift.moved, len(rise))
            return best, Gains(*(gain.topk(count, dim=0).values.sum(0) for gain in (rise, fall)))

        bits = [shaped(count.to(operator.rows.dtype)) for count in (more, less)]
        return in_pieces(bits, most * self._numbers(operator, shaped), step)

    def _ranked(self, operator: Weighted, added: Tensor, dropped: Tensor) -> Gains:
        return self.ranking(operator, added, dropped, "any", self.shift.moved)

    def _numbers(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> int:
        return self.ranking.numbers(outputs_of(operator, shaped(self.x0[:1, :1])[0]), self.shift.moved)

    def _counts(self) -> tuple[Tensor, Tensor]:
        """By how much the counts of spikes so far can rise, and fall: int64 ``[T, B, ...]``."""
        low, high = self.box()
        spikes, set_so_far, cleared_so_far = (
            bits.long().cumsum(0) for bits in (self.x0 == 1, high > self.x0, low < self.x0)
        )
        later = spikes[-1:].expand(self.shift.max_shift, *spikes.shape[1:])
        reach = min(self.shift.max_shift, len(spikes))
        ahead = torch.cat([spikes, later[:reach]])[reach:]
        behind = torch.cat([torch.zeros_like(spikes[:reach]), spikes])[: len(spikes)]
        more = torch.minimum(ahead - spikes, torch.minimum(set_so_far, cleared_so_far[-1:] - cleared_so_far))
        less = torch.minimum(spikes - behind, torch.minimum(cleared_so_far, set_so_far[-1:] - set_so_far))
        return more, less
