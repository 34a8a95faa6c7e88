r"""What training minimises: natural, certified and adversarial objectives behind one interface.

The certified loss is

.. math:: \kappa\, CE(\text{logits}, y) + (1 - \kappa)\, CE([0, -\underline m], 0) + \text{regularisers}

with lower margin bounds :math:`\underline m` (`certsnn.train.margins`): the vector ``[0, -m]`` holds the
worst case of ``logit[j] - logit[y]``. The threat's size and :math:`1 - \kappa` ramp up together. Sources:
design, section 7; Gowal et al. 2018 (kappa and eps schedules); Zhang et al. 2020 (CROWN-IBP).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from certsnn.attacks.losses import CrossEntropy, Loss
from certsnn.bounds.arithmetic import PLAIN
from certsnn.bounds.problem import Problem
from certsnn.bounds.verify import bind
from certsnn.inputsets import InputSet, Threat
from certsnn.networks import SpikingNetwork
from certsnn.processes import batch_max, batch_mean
from certsnn.train.margins import IntervalMargins, MarginBound, shortened
from certsnn.train.regularisers import Regulariser
from certsnn.train.schedules import Ramp


class Samples(NamedTuple):
    """A batch as the threat takes it: x ``[B, ...]`` or ``[T, B, ...]``, classes y and positions ``[B]``."""

    x: Tensor
    y: Tensor
    positions: Tensor


class Terms(NamedTuple):
    """A loss to minimise, and figures to log (detached scalars)."""

    loss: Tensor
    figures: dict[str, Tensor]


class Objective(ABC):
    """Turns a batch into a loss."""

    @abstractmethod
    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, epoch: float) -> Terms:
        """The loss of one batch at this (fractional) epoch; runs the network in training mode."""

    @property
    @abstractmethod
    def settled(self) -> float:
        """The epoch from which the objective no longer changes: best checkpoints count from here."""


def _error(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().argmax(1) != y).float().mean()


@final
@dataclass(frozen=True)
class Natural(Objective):
    """The loss of the clean logits; the threat plays no part.

    Args:
        loss: CrossEntropy, MeanSquaredError or Margin.
    """

    loss: Loss = field(default_factory=CrossEntropy)

    @property
    def settled(self) -> float:
        return 0.0

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, epoch: float) -> Terms:
        x0, _ = bind(network, samples.x, threat.scaled(0), samples.positions)
        logits = network(x0)
        loss = self.loss(logits, samples.y).mean()
        return Terms(loss, {"loss": loss.detach(), "error": _error(logits, samples.y)})


@final
@dataclass(frozen=True)
class Certified(Objective):
    """The certified loss.

    Args:
        ramp: when the threat grows from nothing to ``size`` times the threat of the config.
        kappa_end: the weight left to the clean loss at the end of the ramp, in [0, 1].
        size: the threat that is trained on, relative to the one that is verified; > 0.
        bound: what bounds the margins, IntervalMargins (S-IBP) or CrownMargins (S-CROWN).
        steps: train on the first so many of the network's T steps only (both losses); all if None.
        regularisers: added once the ramp runs.
    """

    ramp: Ramp = field(default_factory=Ramp)
    kappa_end: float = 0.5
    size: float = 1.0
    regularisers: Sequence[Regulariser] = ()
    bound: MarginBound = field(default_factory=IntervalMargins)
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.kappa_end <= 1:
            raise ValueError(f"kappa_end must lie in [0, 1], got {self.kappa_end}")
        if not self.size > 0:
            raise ValueError(f"size must be > 0, got {self.size}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    @property
    def settled(self) -> float:
        return self.ramp.start + self.ramp.length

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, epoch: float) -> Terms:
        share = self.ramp(epoch)
        x0, input_set = bind(network, samples.x, threat.scaled(self.size * share), samples.positions)
        steps = self._steps(network, x0)
        x0, input_set = input_set.first(x0, steps)
        logits, program = network.forward_and_freeze(x0, steps)
        clean = F.cross_entropy(logits, samples.y)
        figures = {"error": _error(logits, samples.y)}
        if share == 0:
            return Terms(clean, {"loss": clean.detach()} | figures)
        problem = Problem(shortened(program, steps), x0, samples.y, input_set, PLAIN)
        margins, layers = self.bound(problem, share)
        robust = robust_cross_entropy(margins)
        kappa = 1 - (1 - self.kappa_end) * share
        loss = kappa * clean + (1 - kappa) * robust
        for regulariser in self.regularisers:
            loss = loss + regulariser.penalty(network, layers, share)
        figures |= {
            "loss": loss.detach(),
            "bound_error": (margins.detach() <= 0).any(1).float().mean(),
        }
        return Terms(loss, figures)

    def _steps(self, network: SpikingNetwork, x0: Tensor) -> int:
        """How many of the steps that x0 gives the network are trained on."""
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


@final
@dataclass(frozen=True)
class Adversarial(Objective):
    """Projected gradient ascent on the loss within the (ramped) threat (Madry et al. 2018).

    Images move by ``step_size`` times the threat's reach in the direction of the gradient's sign. Spikes
    are set to the value that the gradient asks for; where the threat admits fewer changes, those with the
    steepest gradient stay.

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

    @property
    def settled(self) -> float:
        return self.ramp.start + self.ramp.length

    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, epoch: float) -> Terms:
        share = self.ramp(epoch)
        x0, input_set = bind(network, samples.x, threat.scaled(share), samples.positions)
        clean_logits = network(x0)
        clean = F.cross_entropy(clean_logits, samples.y)
        if share == 0:
            return Terms(clean, {"loss": clean.detach(), "error": _error(clean_logits, samples.y)})
        logits = network(self._ascend(network, x0, samples.y, input_set))
        kappa = 1 - (1 - self.kappa_end) * share
        loss = kappa * clean + (1 - kappa) * F.cross_entropy(logits, samples.y)
        figures = {
            "loss": loss.detach(),
            "error": _error(clean_logits, samples.y),
            "attack_error": _error(logits, samples.y),
        }
        return Terms(loss, figures)

    def _ascend(self, network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet) -> Tensor:
        lower, upper = input_set.box(x0)
        # A spike is 0 or 1: a whole step sets it, and the projection rounds and picks.
        widest = float(batch_max((upper - lower).max()))
        step = 1.0 if input_set.domain == "spikes" else self.step_size * widest
        x = x0
        for _ in range(self.iterations):
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(batch_mean(F.cross_entropy(network(x), y)), x)
            with torch.no_grad():
                x = input_set.project(x0, x + step * gradient.sign(), gradient.abs())
        return x.detach()
