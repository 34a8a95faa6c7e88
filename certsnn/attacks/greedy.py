"""Greedy flip search by the exact effects of single flips, then the flips that were not needed undone."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from certsnn.attacks.base import SPIKES, Attack
from certsnn.attacks.gradients import with_surrogate
from certsnn.attacks.losses import Loss, Margin
from certsnn.attacks.oracle import MEMORY, Oracle
from certsnn.encoding import check_seed
from certsnn.program import Program
from certsnn.settings import check_count
from certsnn.surrogates import Adaptive, Surrogate


@dataclass(frozen=True)
class GreedySearch(Attack, ABC):
    """Single changes of spikes or counts, one after the other: ranked by gradient, the best ones measured.

    Args:
        candidates: changes that are measured in each round.
        rounds: the largest number of rounds.
        loss: ranks the changes.
        surrogate: the spikes' derivative for the ranking; None is the network's own.
        memory: bytes that the activations of one forward pass may take.
        seed: ranks changes whose gradients agree.
    """

    domains = SPIKES

    candidates: int = 64
    rounds: int = 50
    loss: Loss = field(default_factory=Margin)
    surrogate: Surrogate | None = field(default_factory=Adaptive)
    memory: int = field(default=MEMORY, compare=False)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("candidates", "rounds", "memory"):
            check_count(name, getattr(self, name))
        check_seed(self.seed)

    @final
    def view(self, program: Program) -> Program:
        return with_surrogate(program, self.surrogate)

    @final
    def reduce(self, oracle: Oracle, undone: Callable[[Oracle, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Undo changes of the broken samples, one at a time, as long as they stay broken.

        Args:
            oracle: of all samples.
            undone: which entries of members can be taken back alone, and what each of them becomes then.
        """
        for turn in range(self.rounds):
            broken, x = oracle.broken()
            if not len(broken):
                return
            undoable, values = undone(broken, x)
            places, real = best_places(
                broken, torch.zeros_like(x), undoable, self.candidates, self.seed, self.rounds + turn
            )
            if not bool(real.any()):
                return
            before = x
            broken.measure(changed(broken, x, values, places, real), self.memory)
            _, x = oracle.broken()
            if torch.equal(x, before):
                return


@final
class GreedyFlips(GreedySearch):
    """One flip at a time, the one that truly brings the sample nearest to success.

    Each round ranks the possible flips by gradient, measures the true effect of the best ``candidates`` of
    them by forward passes, and keeps the best one, even if it does not help yet. Where no flip is left, the
    round undoes one that was made earlier (never the last one, whose rivals have been measured) and bars it,
    so that later rounds try others with those that stay. A success is then reduced, in as many rounds at
    most: flips are undone as long as the sample stays broken. Arguments: `GreedySearch`.
    """

    def search(self, oracle: Oracle) -> None:
        everyone, x = oracle, oracle.x0
        barred = last = torch.zeros_like(x, dtype=torch.bool)
        for turn in range(self.rounds):
            oracle, (x, barred, last) = oracle.unbroken(x, barred, last)
            if not len(oracle):
                break
            possible = oracle.input_set.flippable(oracle.x0, x)
            undo = possible & (x != oracle.x0) & ~last
            add = possible & (x == oracle.x0) & ~barred
            adding = oracle.per_sample(add).any(1)
            gain = oracle.gradient(x, self.loss) * (1 - 2 * x)
            best = self._best(oracle, x, gain, torch.where(oracle.aligned(adding), add, undo), turn)
            if torch.equal(best, x):
                break
            barred = barred | ((best != x) & (x != oracle.x0))
            last = torch.where(oracle.aligned(adding), best != x, last)
            x = best
        self.reduce(everyone, _undone)

    def _best(self, oracle: Oracle, x: Tensor, gain: Tensor, possible: Tensor, turn: int) -> Tensor:
        """x with the best one of the possible flips; x itself where there is none."""
        places, real = best_places(oracle, gain, possible, self.candidates, self.seed, turn)
        return nearest(oracle, changed(oracle, x, 1 - x, places, real), real, self.memory)


def _undone(oracle: Oracle, x: Tensor) -> tuple[Tensor, Tensor]:
    return oracle.input_set.flippable(oracle.x0, x) & (x != oracle.x0), 1 - x


def nearest(oracle: Oracle, members: Tensor, real: Tensor, memory: int) -> Tensor:
    """Of the members ``[C, *x.shape]`` that are real ``[C, B]``, each sample's nearest to success.

    Measured by forward passes, whose activations may take ``memory`` bytes.
    """
    gaps = oracle.measure(members, memory).masked_fill(~real, torch.inf)
    return members.gather(0, oracle.aligned(gaps.argmin(0)[None]).expand_as(members[:1]))[0]


def best_places(
    oracle: Oracle, gain: Tensor, possible: Tensor, count: int, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """The possible flips of the highest gain, those that agree in random order.

    Returns:
        ``(places, real)``, both ``[C, B]`` with 1 <= C <= count: places among a sample's bits, and which of
        them are possible.
    """
    noise = oracle.per_sample(oracle.uniform(len(gain), seed, stream))
    shuffled = noise.argsort(1)
    possible, gain = (oracle.per_sample(x).gather(1, shuffled) for x in (possible, gain))
    rank = gain.masked_fill(~possible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = rank[:, : max(1, min(count, int(possible.sum(1).max())))]
    return shuffled.gather(1, rank).T, possible.gather(1, rank).T


def changed(oracle: Oracle, x: Tensor, values: Tensor, places: Tensor, real: Tensor) -> Tensor:
    """Inputs ``[C, *x.shape]``, each x with one entry as in ``values``; x itself where it is not real."""
    rows = oracle.per_sample(x).repeat(len(places), 1, 1)
    old = rows.gather(2, places[..., None])
    new = oracle.per_sample(values).expand_as(rows).gather(2, places[..., None])
    rows.scatter_(2, places[..., None], torch.where(real[..., None], new, old))
    return rows.view(*rows.shape[:2], len(x), *x.shape[2:]).movedim(2, 1)
