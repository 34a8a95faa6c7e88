"""Greedy search for spikes to delay or advance, by the exact effects of single moves."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from certsnn.attacks.greedy import GreedySearch, nearest
from certsnn.attacks.oracle import Oracle
from certsnn.inputsets.shifts import shifted


@final
class GreedyShifts(GreedySearch):
    """One spike moved in time after the other, by the move that truly brings the sample nearest to success.

    Each round ranks the moves of a spike to a bit of its pixel that is free, by gradient, measures the true
    effect of the best ``candidates`` of them that lead to members of the set by forward passes, and keeps the
    best one, even if it does not help yet. Where no new spike can move, one that has moved, but not in the
    last round, is put elsewhere, or back. A spike may follow into a place that another one has left.
    Arguments: `GreedySearch`.
    """

    def search(self, oracle: Oracle) -> None:
        x = oracle.x0
        # Bits that some move, and that the last one, has set or cleared.
        barred = last = torch.zeros_like(x, dtype=torch.bool)
        for turn in range(self.rounds):
            oracle, (x, barred, last) = oracle.unbroken(x, barred, last)
            if not len(oracle):
                return
            members, real = self._moved(oracle, x, barred, last, turn)
            best = nearest(oracle, members, real, self.memory)
            if torch.equal(best, x):
                return
            last = best != x
            barred = barred | last
            x = best

    def _moved(
        self, oracle: Oracle, x: Tensor, barred: Tensor, last: Tensor, turn: int
    ) -> tuple[Tensor, Tensor]:
        """Members ``[C, *x.shape]`` with one more move, and which of them are: the others are x itself."""
        reach = min(oracle.input_set.reach or len(x), len(x) - 1)
        offsets = [sign * size for size in range(1, reach + 1) for sign in (1, -1)]
        if not offsets:
            return x[None], torch.zeros((1, len(oracle)), dtype=torch.bool, device=x.device)
        gradient = oracle.gradient(x, self.loss)
        noise = oracle.per_sample(oracle.uniform(len(x), self.seed, turn)).repeat(1, len(offsets))

        def ranked(used: Tensor) -> tuple[Tensor, Tensor]:
            """The best moves between bits that are not used, and which of them lead to members."""
            gains = []
            for offset in offsets:
                possible = (x == 1) & ~used & shifted((x == 0) & ~used, offset, False)
                gain = shifted(gradient, offset, 0) - gradient
                gains.append(oracle.per_sample(gain.masked_fill(~possible, -torch.inf)))
            gain, order = torch.cat(gains, 1), noise.argsort(1)
            best = gain.gather(1, order).argsort(dim=1, descending=True, stable=True)
            rank = order.gather(1, best)[:, : self.candidates]
            return self._members(oracle, x, offsets, rank, gain.gather(1, rank) > -torch.inf)

        members, real = ranked(barred)
        stuck = ~real.any(0)
        if not bool(stuck.any()):
            return members, real
        others, true = ranked(last)
        return torch.where(oracle.aligned(stuck), others, members), torch.where(stuck, true, real)

    def _members(
        self, oracle: Oracle, x: Tensor, offsets: list[int], rank: Tensor, possible: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x with each move of the ranking ``[B, C]``, or x itself where it leads out of the set."""
        bits = oracle.per_sample(x)
        pixels = bits.shape[1] // len(x)
        offset = torch.tensor(offsets, device=x.device)[rank // bits.shape[1]]
        origin = rank % bits.shape[1]
        target = torch.where(possible, origin + offset * pixels, origin)
        moved = bits.repeat(rank.shape[1], 1, 1)
        moved.scatter_(2, origin.T[..., None], 0.0)
        moved.scatter_(2, target.T[..., None], 1.0)
        moved = torch.where(possible.T[..., None], moved, bits)
        members = moved.view(*moved.shape[:2], len(x), *x.shape[2:]).movedim(2, 1)
        inside = [oracle.input_set.contains(oracle.x0, member) for member in members]
        real = torch.stack(inside) & possible.T
        return torch.where(oracle.aligned(real), members, x), real
