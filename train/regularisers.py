"""Penalties that help a network into a certifiable shape while the threat ramps up.

Bounds that have grown too wide, and neurons that never fire or always do, carry no gradient. Source: Shi et
al., *Fast Certified Robust Training with Short Warmup*, 2021, https://arxiv.org/abs/2103.17268, carried over
from ReLU to spike counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Weighted
from certsnn.bounds.interval.layers import Layer
from certsnn.layers import as_affine
from certsnn.networks import SpikingNetwork


class Regulariser(ABC):
    """A penalty on a network and the bounds of its layers."""

    @abstractmethod
    def penalty(self, network: SpikingNetwork, layers: Sequence[Layer], share: float) -> Tensor:
        """A scalar >= 0, already weighted, when this share of the threat's ramp is done."""


@final
@dataclass(frozen=True)
class Tightness(Regulariser):
    """``weight * mean_i relu(tolerance - width_1 / width_i)``, fading with the ramp: no layer's counts
    much wider than the first's.

    The width of a layer is the mean distance of its neurons' bounds on the spike count.
    """

    weight: float = 0.5
    tolerance: float = 0.5

    def penalty(self, network: SpikingNetwork, layers: Sequence[Layer], share: float) -> Tensor:
        mean = network.batch.mean
        widths = [mean((layer.totals.upper - layer.totals.lower).mean()) + 1e-6 for layer in layers]
        terms = [(self.tolerance - widths[0].detach() / width).clamp_min(0) for width in widths]
        return self.weight * (1 - share) * torch.stack(terms).mean()


@final
@dataclass(frozen=True)
class FiringRate(Regulariser):
    """``weight * mean_i (distance of layer i's mean firing rate to [low, high])``, fading with the ramp.

    The rate of a layer is the mean centre of its neurons' bounds.
    """

    weight: float = 0.5
    low: float = 0.05
    high: float = 0.5

    def penalty(self, network: SpikingNetwork, layers: Sequence[Layer], share: float) -> Tensor:
        mean = network.batch.mean
        sums = [mean((layer.totals.lower + layer.totals.upper).mean()) for layer in layers]
        rates = [total / (2 * layer.steps) for total, layer in zip(sums, layers, strict=True)]
        terms = [(self.low - rate).clamp_min(0) + (rate - self.high).clamp_min(0) for rate in rates]
        return self.weight * (1 - share) * torch.stack(terms).mean()


@final
@dataclass(frozen=True)
class L1(Regulariser):
    """``weight * sum |w|`` over the weights of all Linear, Conv1d and Conv2d layers: narrower intervals."""

    weight: float = 1e-6

    def penalty(self, network: SpikingNetwork, layers: Sequence[Layer], share: float) -> Tensor:
        operators = [as_affine(layer) for layer in network.affine_layers()]
        sums = [operator.rows.abs().sum() for operator in operators if isinstance(operator, Weighted)]
        return self.weight * torch.stack(sums).sum()
