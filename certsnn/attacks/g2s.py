"""Gradient-to-spike: spikes flipped at random, the more likely the steeper the gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch

from certsnn.attacks.base import BOTH, Attack
from certsnn.attacks.gradients import with_penultimate_threshold, with_surrogate
from certsnn.attacks.losses import CrossEntropy, Loss
from certsnn.attacks.oracle import Oracle
from certsnn.attacks.rsf import random_flips
from certsnn.attacks.spike_view import SPIKE_VIEWS, over_steps, ternary
from certsnn.encoding import check_seed
from certsnn.program import Program
from certsnn.settings import check_count, check_positive, check_share
from certsnn.surrogates import Surrogate


@final
@dataclass(frozen=True)
class G2S(Attack):
    r"""G2S with the restricted spike flipper (RSF) where gradients vanish.

    With g the gradient of the objective, the change of a spike s is

    .. math:: m \cdot \mathrm{sign}(g), \quad P(m = 1) = |g| / \max|g|, \quad
        \text{dropped where } s + m \cdot \mathrm{sign}(g) \notin \{0, 1\}.

    Where the set admits fewer changes than that, those with the largest :math:`|g|` stay. A sample whose
    gradient is all zero has each spike flipped with probability gamma instead, and goes on. Source: Liang et
    al., *Exploring Adversarial Attack in Spiking Neural Networks with Spike-Compatible Gradient*, 2021,
    https://arxiv.org/abs/2001.01587.

    Args:
        iterations: the largest number of changes in turn.
        gamma: RSF's turnover rate; 0 is G2S alone.
        loss: the term of the objective.
        penultimate_threshold: the firing threshold of the last hidden layer in gradient passes only
            (`certsnn.attacks.gradients`); None is the network's own.
        surrogate: the spikes' derivative; None is the network's own.
        seed: of all randomness.
    """

    domains = BOTH

    iterations: int = 25
    gamma: float = 0.05
    loss: Loss = field(default_factory=CrossEntropy)
    penultimate_threshold: float | None = None
    surrogate: Surrogate | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        check_share("gamma", self.gamma)
        check_seed(self.seed)
        if self.penultimate_threshold is not None:
            check_positive("penultimate_threshold", self.penultimate_threshold)

    def view(self, program: Program) -> Program:
        return with_penultimate_threshold(with_surrogate(program, self.surrogate), self.penultimate_threshold)

    def search(self, oracle: Oracle) -> None:
        spike_view = SPIKE_VIEWS[oracle.input_set.domain]
        x = oracle.x0
        for iteration in range(self.iterations):
            oracle, (x,) = oracle.unbroken(x)
            if not len(oracle):
                return
            gradient = spike_view.gradient(oracle, x, self.loss)
            keep, turn, encode = range(3 * iteration, 3 * iteration + 3)
            spikes = spike_view.spikes(oracle, x, self.seed, encode)
            weight = gradient.abs()
            largest = weight.movedim(1, 0).flatten(1).amax(1)
            lost = largest == 0
            noise = oracle.uniform(len(spikes), self.seed, keep).to(x.dtype)
            kept = noise * over_steps(largest, spikes) < weight
            change = ternary(gradient.sign() * kept, spikes)
            if bool(lost.any()) and self.gamma > 0:
                oracle.note_random(lost)
                flips, worth = random_flips(oracle, spikes, self.gamma, self.seed, turn)
                here = over_steps(lost, spikes)
                change, weight = torch.where(here, flips, change), torch.where(here, worth, weight)
            x = oracle.attempt(spike_view.moved(x, change), spike_view.score(weight))
