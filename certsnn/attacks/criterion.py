"""What an attack is to achieve, and when it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.attacks.losses import Loss, Margin
from certsnn.networks import strictly_correct


@final
@dataclass(frozen=True, eq=False)
class Goal:
    """Labels ``y [B]`` and, for a targeted attack, the classes ``targets [B]`` wanted instead.

    Untargeted: the label is no longer strictly the largest logit, so a tie counts. Targeted: the target is
    strictly the largest, which is an untargeted success too.
    """

    y: Tensor
    targets: Tensor | None = None

    def reached(self, logits: Tensor) -> Tensor:
        """``bool [B]``; logits that hold NaN reach the untargeted goal, and never a target."""
        if self.targets is None:
            return ~strictly_correct(logits, self.y)
        return strictly_correct(logits, self.targets)

    def objective(self, loss: Loss, logits: Tensor) -> Tensor:
        """What the attack ascends, ``[B]``."""
        return loss(logits, self.y) if self.targets is None else -loss(logits, self.targets)

    def gap(self, logits: Tensor) -> Tensor:
        """How far logits are from the goal, ``[B]``: the less the better, below 0 it is reached."""
        return -self.objective(Margin(), logits)

    def select(self, mask: Tensor) -> Goal:
        """The goal of those of the samples that the boolean mask ``[B]`` names."""
        return Goal(self.y[mask], None if self.targets is None else self.targets[mask])

    def repeat(self, times: int) -> Goal:
        """The goal of so many copies of the batch, one after the other."""
        return Goal(self.y.repeat(times), None if self.targets is None else self.targets.repeat(times))
