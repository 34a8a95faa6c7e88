"""The criterion of success of an attack: wrong answers, or a target's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.attacks.losses import Loss, Margin
from certsnn.program import strictly_correct


@final
@dataclass(frozen=True, eq=False)
class Criterion:
    """Labels ``y [B]`` and, for a targeted attack, the classes ``targets [B]`` wanted instead.

    Untargeted: the label is no longer strictly the largest logit, so a tie counts. Targeted: the target is
    strictly the largest, which is an untargeted success too.
    """

    y: Tensor
    targets: Tensor | None = None

    def met(self, logits: Tensor) -> Tensor:
        """``bool [B]``, whether logits ``[B, K]`` meet it; NaN meets the untargeted one, never a target's."""
        if self.targets is None:
            return ~strictly_correct(logits, self.y)
        return strictly_correct(logits, self.targets)

    def objective(self, loss: Loss, logits: Tensor) -> Tensor:
        """The quantity that the attack ascends, ``[B]``."""
        return loss(logits, self.y) if self.targets is None else -loss(logits, self.targets)

    def gap(self, logits: Tensor) -> Tensor:
        """The distance of logits from success, ``[B]``: below 0 the criterion is met."""
        return -self.objective(Margin(), logits)

    def select(self, mask: Tensor) -> Criterion:
        """The criterion of those of the samples that the boolean mask ``[B]`` names."""
        return Criterion(self.y[mask], None if self.targets is None else self.targets[mask])

    def repeat(self, times: int) -> Criterion:
        """The criterion of a number of copies of the batch, one after the other."""
        return Criterion(self.y.repeat(times), None if self.targets is None else self.targets.repeat(times))
