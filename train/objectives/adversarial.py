"""Adversarial training, and the ascent on the loss that other objectives share with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.batches import BatchStatistics
from certsnn.bounds.certify import bind
from certsnn.inputsets import InputSet, Threat
from certsnn.networks import SpikingNetwork
from certsnn.settings import check_count, check_share
from certsnn.train.objectives.base import Objective, Samples, Terms, error_rate, mixed
from certsnn.train.schedules import Moment, Ramp


def ascend(
    logits: Callable[[Tensor], Tensor],
    x0: Tensor,
    y: Tensor,
    input_set: InputSet,
    iterations: int,
    step_size: float,
    batch: BatchStatistics,
) -> Tensor:
    """A member of the set with a larger cross-entropy, by projected gradient ascent.

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, 2018,
    https://arxiv.org/abs/1706.06083.

    Images and frames move by ``step_size`` times the widest interval of the set's box in the direction of the
    gradient's sign, counts by one event at least. Spikes are set to the value that the gradient asks for;
    where the set admits fewer changes, those with the steepest gradient stay.

    Args:
        logits: of a batch shaped as x0, ``[B, K]``.
        x0: the nominal inputs.
        y: classes ``[B]``.
        input_set: the inputs that may be chosen.
        iterations: gradient steps.
        step_size: see above.
        batch: that the samples are all or a share of.
    """
    lower, upper = input_set.box(x0)
    # A whole step sets a spike, and the projection rounds and picks.
    widest = float(batch.greatest((upper - lower).max()))
    step = max(step_size * widest, input_set.grain)
    x = x0
    for _ in range(iterations):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(batch.mean(F.cross_entropy(logits(x), y)), x)
        with torch.no_grad():
            x = input_set.project(x0, x + step * gradient.sign(), gradient.abs())
    return x.detach()


@final
@dataclass(frozen=True)
class Adversarial(Objective):
    """Training on the inputs that `ascend` finds within the (ramped) threat.

    Args:
        ramp: when the threat grows to its full size.
        iterations: gradient steps for a batch.
        step_size: relative to the widest interval of the threat's box.
        kappa_end: the weight of the clean loss at the end of the ramp.
    """

    ramp: Ramp = field(default_factory=Ramp)
    iterations: int = 5
    step_size: float = 0.25
    kappa_end: float = 0.5

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        check_share("kappa_end", self.kappa_end)

    def settled(self, epochs: int) -> float:
        return self.ramp.end(epochs)

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, moment: Moment) -> Terms:
        share = self.ramp(moment)
        x0, input_set = bind(network, samples.x, threat.scaled(share), samples.positions)
        clean_logits = network(x0)
        clean = F.cross_entropy(clean_logits, samples.y)
        if share == 0:
            return Terms(clean, {"loss": clean.detach(), "error": error_rate(clean_logits, samples.y)})
        ascent = self.iterations, self.step_size, network.batch
        logits = network(ascend(network, x0, samples.y, input_set, *ascent))
        loss = mixed(clean, F.cross_entropy(logits, samples.y), self.kappa_end, share)
        figures = {
            "loss": loss.detach(),
            "error": error_rate(clean_logits, samples.y),
            "attack_error": error_rate(logits, samples.y),
        }
        return Terms(loss, figures)
