"""The restricted spike flipper: random flips, for where gradients vanish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.attacks.base import BOTH, Attack
from certsnn.attacks.oracle import Oracle
from certsnn.attacks.spike_view import SPIKE_VIEWS
from certsnn.encoding import check_seed
from certsnn.program import Program
from certsnn.settings import check_count, check_share


def random_flips(
    oracle: Oracle, spikes: Tensor, gamma: float, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """Each spike flipped with probability gamma: changes -1, 0 or 1, and random weights in (0, 1].

    Args:
        spikes: ``[T, B, ...]`` of the oracle's samples.
    """
    noise = oracle.uniform(len(spikes), seed, stream).to(spikes.dtype)
    return (1 - 2 * spikes) * (noise < gamma), 1 - noise


@final
@dataclass(frozen=True)
class RSF(Attack):
    """Random flips alone, one round on top of the other: the fall-back of G2S, as a baseline.

    Where the set admits fewer flips, random ones of them stay. Source: Liang et al., 2021,
    https://arxiv.org/abs/2001.01587.

    Args:
        iterations: the largest number of rounds.
        gamma: the probability of a flip, in each round (the turnover rate).
        seed: of all randomness.
    """

    domains = BOTH

    iterations: int = 25
    gamma: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        check_share("gamma", self.gamma)
        check_seed(self.seed)

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        spike_view = SPIKE_VIEWS[oracle.input_set.domain]
        x = oracle.x0
        for iteration in range(self.iterations):
            oracle, (x,) = oracle.unbroken(x)
            if not len(oracle):
                return
            turn, encode = 2 * iteration, 2 * iteration + 1
            spikes = spike_view.spikes(oracle, x, self.seed, encode)
            flips, worth = random_flips(oracle, spikes, self.gamma, self.seed, turn)
            oracle.note_random(flips.new_ones(len(oracle)).bool())
            x = oracle.attempt(spike_view.moved(x, flips), spike_view.score(worth))
