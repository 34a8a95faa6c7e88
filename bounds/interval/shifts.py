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
from certsnn.bounds.interval.topk import ChangedSpikes, Gains, Ranking
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
        rise, fall = self._gains(operator, shaped, high > self.x0, low < self.x0)
        return Gains(rise.sum(0), fall.sum(0))

    def cumulative_moves(self, operator: Weighted, shaped: Callable[[Tensor], Tensor]) -> Gains:
        more, less = self._counts()
        # A count that can change by m is m candidates of one weight.
        times = range(1, max(1, min(self.shift.moved, int(torch.maximum(more, less).amax()))) + 1)
        gains = [self._gains(operator, shaped, more >= m, less >= m) for m in times]
        rise, fall = (torch.cat(parts) for parts in zip(*gains, strict=True))
        count = min(self.shift.moved, len(rise))
        return Gains(*(gain.topk(count, dim=0).values.sum(0) for gain in (rise, fall)))

    def _gains(
        self, operator: Weighted, shaped: Callable[[Tensor], Tensor], added: Tensor, dropped: Tensor
    ) -> Gains:
        up, down = (shaped(bits.to(operator.rows.dtype)) for bits in (added, dropped))
        return self.ranking(operator, up, down, "any", self.shift.moved)

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
