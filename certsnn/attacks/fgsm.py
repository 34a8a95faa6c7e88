"""The fast gradient sign method: one step to a corner of the box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from certsnn.attacks.base import IMAGES, Attack
from certsnn.attacks.gradients import with_surrogate
from certsnn.attacks.losses import CrossEntropy, Loss
from certsnn.attacks.oracle import Victim
from certsnn.networks import Program
from certsnn.surrogates import Surrogate


@final
@dataclass(frozen=True)
class FGSM(Attack):
    """Each pixel at the end of its range that the sign of the gradient points to.

    Source: Goodfellow et al., *Explaining and Harnessing Adversarial Examples*, 2015,
    https://arxiv.org/abs/1412.6572.

    Args:
        loss: what the objective is made of.
        surrogate: the spikes' derivative; None is the network's own.
    """

    domains = IMAGES

    loss: Loss = field(default_factory=CrossEntropy)
    surrogate: Surrogate | None = None

    def view(self, program: Program) -> Program:
        return with_surrogate(program, self.surrogate)

    def search(self, victim: Victim) -> None:
        gradient = victim.gradient(victim.x0, self.loss)
        lower, upper = victim.input_set.box(victim.x0)
        x = victim.x0.where(gradient <= 0, upper).where(gradient >= 0, lower)
        victim.attempt(x)
