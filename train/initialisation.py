"""Where the weights of a network to be certified begin."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from certsnn.affine import as_affine
from certsnn.networks import SpikingNetwork, hold, over_time
from certsnn.neurons import Neuron, scan


class Initialisation(ABC):
    """Sets the weights of a new network."""

    @abstractmethod
    def __call__(self, network: SpikingNetwork, x0: Tensor) -> None:
        """Set the weights in place; ``x0`` is a batch of the network's nominal inputs."""


@final
@dataclass(frozen=True)
class TorchDefault(Initialisation):
    """Leaves the weights as torch draws them."""

    def __call__(self, network: SpikingNetwork, x0: Tensor) -> None:
        return None


@final
@dataclass(frozen=True)
class ConstantWidth(Initialisation):
    """Weights from ``N(0, 2 pi / n^2)`` for n inputs, zero biases, then rescaled to the data.

    With these weights the expected width of an interval stays the same from layer to layer (Shi et al. 2021,
    section 3.1), but a spiking layer may stay silent. So each layer's weights and bias are then multiplied,
    first to last, until the mean firing rate on the batch reaches ``rate`` (never by more than ``most``).
    """

    rate: float = 0.15
    most: float = 16.0

    @torch.no_grad()
    def __call__(self, network: SpikingNetwork, x0: Tensor) -> None:
        frames, steps = network.input.frames(x0, None)
        pending: list[nn.Module] = []
        for layer in network.layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 * math.pi) / layer.weight[0].numel())
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            if not isinstance(layer, Neuron):
                pending.append(layer)
                continue
            frames = self._rescaled(pending, layer, frames, steps)
            pending = []

    def _rescaled(self, layers: list[nn.Module], neuron: Neuron, frames: Tensor, steps: int) -> Tensor:
        """Rescale the last weights before a neuron; the spikes ``[T, B, ...]`` that it then fires."""
        weighted = [layer for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
        factor = 1.0
        while True:
            x = frames
            for layer in layers:
                x = over_time(as_affine(layer).apply, x)
            spikes = scan(hold(x, steps), neuron.dynamics()).spikes
            if not weighted or float(spikes.mean()) >= self.rate or factor >= self.most:
                return spikes
            factor *= 1.1
            weighted[-1].weight.mul_(1.1)
