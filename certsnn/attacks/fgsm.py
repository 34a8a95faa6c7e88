"""The fast gradient sign method: one step to a corner of the box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from certsnn.attacks.base import NUMBERS, Attack
from certsnn.attacks.gradients import with_surrogate
from certsnn.attacks.losses import CrossEntropy, Loss
from certsnn.attacks.oracle import Oracle
from certsnn.program import Program
from certsnn.surrogates import Surrogate


@final
@dataclass(frozen=True)
class FGSM(Attack):
    """Each entry at the end of its range that the sign of the gradient points to.

    Where the set admits fewer changes than that, those with the steepest gradient stay.

    Source: Goodfellow et al., *Explaining and Harnessing Adversarial Examples*, 2015,
    https://arxiv.org/abs/1412.6572.

    Args:
        loss: the term of the objective.
        surrogate: the spikes' derivative; None is the network's own.
    """

    domains = NUMBERS

    loss: Loss = field(default_factory=CrossEntropy)
    surrogate: Surrogate | None = None

    def view(self, program: Program) -> Program:
        return with_surrogate(program, self.surrogate)

    def search(self, oracle: Oracle) -> None:
        gradient = oracle.gradient(oracle.x0, self.loss)
        lower, upper = oracle.input_set.box(oracle.x0)
        x = oracle.x0.where(gradient <= 0, upper).where(gradient >= 0, lower)
        oracle.attempt(x, gradient.abs())
