"""Natural training: on clean samples alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from certsnn.attacks.losses import CrossEntropy, Loss
from certsnn.bounds.certify import bind
from certsnn.evaluation.verification import Summary
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.train.objectives.base import Objective, Samples, Terms, error_rate
from certsnn.train.schedules import Moment


@final
@dataclass(frozen=True)
class Natural(Objective):
    """The loss of the clean logits; the threat plays no part.

    Args:
        loss: CrossEntropy, MeanSquaredError or Margin.
    """

    loss: Loss = field(default_factory=CrossEntropy)

    def settled(self, epochs: int) -> float:
        return 0.0

    def score(self, found: Summary) -> tuple[float, float]:
        """Clean error first: bounds grow with training, verified error would choose an early epoch."""
        return found.clean_error, found.verified_error

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, moment: Moment) -> Terms:
        x0, _ = bind(network, samples.x, threat.scaled(0), samples.positions)
        logits = network(x0)
        loss = self.loss(logits, samples.y).mean()
        return Terms(loss, {"loss": loss.detach(), "error": error_rate(logits, samples.y)})
