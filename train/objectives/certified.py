r"""Certified training.

The loss is

.. math:: \kappa\, L + (1 - \kappa)\, CE([0, -\underline m], 0) + \text{regularisers}

with lower margin bounds :math:`\underline m` (`objectives.bounds`): the vector ``[0, -m]`` holds the worst
case of ``logit[j] - logit[y]``, and L is the clean loss or an attack's (`objectives.clean_term`).
The threat's size and :math:`1 - \kappa` ramp up together, after Gowal et al., *On the Effectiveness of
Interval Bound Propagation for Training Verifiably Robust Models*, 2018, https://arxiv.org/abs/1810.12715.
docs/theory/training.md says why the loss bounds the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.bounds.certify import bind
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.problem import Problem
from certsnn.bounds.supports import support_of
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.settings import check_count, check_share
from certsnn.train.objectives.base import CleanPass, Objective, Samples, Terms, error_rate, mixed
from certsnn.train.objectives.bound_surrogates import BoundSurrogate, Own
from certsnn.train.objectives.bounds import IntervalMargins, MarginBound, shortened
from certsnn.train.objectives.clean_term import CleanLoss, CleanTerm
from certsnn.train.objectives.small_boxes import Region, Whole
from certsnn.train.regularisers import Regulariser
from certsnn.train.schedules import Moment, Ramp


@final
@dataclass(frozen=True)
class Certified(Objective):
    """The certified loss.

    Args:
        ramp: when the threat grows from nothing to ``size`` times the threat of the config.
        kappa_end: the weight left to the companion at the end of the ramp, in [0, 1].
        size: the threat that is trained on, relative to the one that is verified; > 0.
        regularisers: added once the ramp runs.
        bound: of the margins, IntervalMargins (S-IBP) or CrownMargins (S-CROWN).
        steps: the number of the network's T steps, the first ones, to train on (both losses); all if None.
        region: that is bounded, the Whole threat or SmallBoxes inside it (SABR).
        companion: the loss beside it, CleanLoss or AttackLoss (MTL-IBP).
        surrogate: of the bound pass, the neurons' Own or Widths that change with the ramp.
    """

    ramp: Ramp = field(default_factory=Ramp)
    kappa_end: float = 0.5
    size: float = 1.0
    regularisers: Sequence[Regulariser] = ()
    bound: MarginBound = field(default_factory=IntervalMargins)
    steps: int | None = None
    region: Region = field(default_factory=Whole)
    companion: CleanTerm = field(default_factory=CleanLoss)
    surrogate: BoundSurrogate = field(default_factory=Own)

    def __post_init__(self) -> None:
        check_share("kappa_end", self.kappa_end)
        if not self.size > 0:
            raise ValueError(f"size must be > 0, got {self.size}")
        if self.steps is not None:
            check_count("steps", self.steps)

    def settled(self, epochs: int) -> float:
        return self.ramp.end(epochs)

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, moment: Moment) -> Terms:
        share = self.ramp(moment)
        grown = threat.scaled(self.size * share)
        x0, input_set = bind(network, samples.x, grown, samples.positions)
        steps = self._steps(network, x0)
        x0, input_set = input_set.first(x0, steps)
        logits, frozen = network.forward_and_freeze(x0, steps)
        figures = {"error": error_rate(logits, samples.y)}
        if share == 0:
            clean = F.cross_entropy(logits, samples.y)
            return Terms(clean, {"loss": clean.detach()} | figures)
        program = shortened(frozen, steps)
        clean_pass = CleanPass(program, logits, samples, grown, x0, input_set, network.batch)
        companion = self.companion(clean_pass)
        centre, region = self.region(clean_pass)
        bounded = self.surrogate(program, share)
        problem = Problem(bounded, centre, samples.y, support_of(region), PLAIN, logits.shape[1])
        margins, layers = self.bound(problem, share)
        loss = mixed(companion, robust_cross_entropy(margins), self.kappa_end, share)
        for regulariser in self.regularisers:
            loss = loss + regulariser.penalty(network, layers, share)
        figures |= {
            "loss": loss.detach(),
            "bound_error": (margins.detach() <= 0).any(1).float().mean(),
        }
        return Terms(loss, figures)

    def _steps(self, network: SpikingNetwork, x0: Tensor) -> int:
        """The number of steps to train on, of those that x0 gives the network."""
        _, steps = network.input.frames(x0, None)
        if self.steps is None:
            return steps
        if self.steps > steps:
            raise ValueError(f"training on the first {self.steps} steps, but there are only {steps}")
        return self.steps


def robust_cross_entropy(margins: Tensor) -> Tensor:
    """The cross-entropy of the worst logits ``[0, -margins]`` against class 0; margins ``[B, K-1]``."""
    worst = torch.cat([torch.zeros_like(margins[:, :1]), -margins], dim=1)
    return F.cross_entropy(worst, torch.zeros(len(worst), dtype=torch.long, device=worst.device))
