"""Greedy search for events to add or remove, by the exact effects of single ones."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from certsnn.attacks.base import FRAMES
from certsnn.attacks.greedy import GreedySearch, best_places, changed, nearest
from certsnn.attacks.oracle import Oracle


@final
class GreedyEvents(GreedySearch):
    """One event after the other, added or removed where it truly brings the sample nearest to success.

    Each round ranks the events by gradient, measures the true effect of the best ``candidates`` of them that
    lead to members by forward passes, and keeps the best one, even if it does not help yet. Where no further
    event can change, the round takes one back (never at the entry that changed last) and bars its entry, so
    that later rounds try others with those that stay. A success is then reduced, in as many rounds at most:
    events are taken back as long as the sample stays broken. Arguments: `GreedySearch`.
    """

    domains = FRAMES
    grain = 1.0

    def search(self, oracle: Oracle) -> None:
        everyone, x = oracle, oracle.x0
        barred = last = torch.zeros_like(x, dtype=torch.bool)
        for turn in range(self.rounds):
            oracle, (x, barred, last) = oracle.unbroken(x, barred, last)
            if not len(oracle):
                break
            best, further = self._best(oracle, x, barred, last, turn)
            if torch.equal(best, x):
                break
            here = best != x
            barred = barred | (here & ~oracle.aligned(further))
            last = torch.where(oracle.aligned(further), here, last)
            x = best
        self.reduce(everyone, _taken_back)

    def _best(
        self, oracle: Oracle, x: Tensor, barred: Tensor, last: Tensor, turn: int
    ) -> tuple[Tensor, Tensor]:
        """The best member with one event more or fewer, and whether it is one further from x0, ``[B]``."""
        gradient = oracle.gradient(x, self.loss)
        values, possible = _further(oracle, x, gradient)
        gain = gradient * (values - x)
        places, real = best_places(oracle, gain, possible & ~barred, self.candidates, self.seed, turn)
        members = changed(oracle, x, values, places, real)
        real = real & torch.stack([oracle.input_set.contains(oracle.x0, member) for member in members])
        further = real.any(0)
        if not bool(further.all()):
            possible, values = _taken_back(oracle, x)
            gain = gradient * (values - x)
            places, true = best_places(oracle, gain, possible & ~last, self.candidates, self.seed, turn)
            others = changed(oracle, x, values, places, true)
            members, real = torch.cat([members, others]), torch.cat([real, true & ~further])
        return nearest(oracle, torch.where(oracle.aligned(real), members, x), real, self.memory), further


def _further(oracle: Oracle, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What each entry becomes with one event more or fewer, away from x0, and where the box allows it."""
    lower, upper = oracle.input_set.box(oracle.x0)
    # Where nothing has changed yet the gradient says which way, if there are two.
    up = torch.where(gradient >= 0, x < upper, x <= lower)
    up = torch.where(x == oracle.x0, up, x > oracle.x0)
    values = torch.where(up, x + 1, x - 1)
    return values, (values >= lower) & (values <= upper)


def _taken_back(oracle: Oracle, x: Tensor) -> tuple[Tensor, Tensor]:
    """Where an event has changed, and what each entry becomes when one of its events is taken back."""
    return x != oracle.x0, x - (x - oracle.x0).sign()
