"""Initial weights of networks that are to be certified."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from certsnn.graph import Plan
from certsnn.layers import WITH_WEIGHTS, BatchNorm, as_affine
from certsnn.networks import SpikingNetwork
from certsnn.program import Link, Neurons, Node, over_time


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

    With these weights the expected width of an interval stays the same from layer to layer (Shi et al.,
    2021, https://arxiv.org/abs/2103.17268, section 3.1), but a spiking layer may stay silent. So each layer's
    weights are then multiplied, first to last, until the mean firing rate on the batch reaches ``rate``
    (never by more than ``most``).
    """

    rate: float = 0.15
    most: float = 16.0

    @torch.no_grad()
    def __call__(self, network: SpikingNetwork, x0: Tensor) -> None:
        for layer in network.leaves():
            if isinstance(layer, WITH_WEIGHTS):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 * math.pi) / layer.weight[0].numel())
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for hidden in _hidden(network, x0):
            factor = 1.0
            while float(hidden.spikes().mean()) < self.rate and factor < self.most:
                factor *= 1.1
                hidden.weighted.weight.mul_(1.1)


@final
@dataclass(frozen=True)
class Calibrated(Initialisation):
    """torch's weights, rescaled layer by layer so that currents spread and neurons fire.

    Each layer's weights are multiplied until the currents on the batch have the standard deviation ``spread``
    (in thresholds), and its biases are then moved, all by the same amount, until the mean firing rate is
    ``rate``, to the precision that ten halvings give. Without it a deep network starts silent and stays so;
    the scale of the weights, and with it the width of intervals, stays near torch's. In the spirit of
    Mishkin and Matas, *All you need is a good init*, 2016, https://arxiv.org/abs/1511.06422.

    Args:
        spread: > 0.
        rate: in (0, 1).
    """

    spread: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not self.spread > 0 or not 0 < self.rate < 1:
            raise ValueError(f"an initialisation needs spread > 0 and rate in (0, 1), got {self}")

    @torch.no_grad()
    def __call__(self, network: SpikingNetwork, x0: Tensor) -> None:
        for hidden in _hidden(network, x0):
            threshold = float(hidden.stage.neuron.threshold.mean())
            deviation = float(hidden.currents().std().clamp_min(torch.finfo(torch.float32).tiny))
            hidden.weighted.weight.mul_(self.spread * threshold / deviation)
            if hidden.weighted.bias is None:
                continue
            high = 4 * self.spread * threshold + threshold
            low = -high
            start = hidden.weighted.bias.clone()
            for _ in range(10):
                middle = (low + high) / 2
                hidden.weighted.bias.copy_(start + middle)
                if float(hidden.spikes().mean()) < self.rate:
                    low = middle
                else:
                    high = middle


class _Passed(NamedTuple):
    """Affine layers, and the node they lead to."""

    layers: Sequence[nn.Module]
    node: Node


@final
@dataclass(frozen=True)
class _Hidden:
    """A layer of neurons whose weights may be changed: the path that drives it, and the last weights on it.

    ``path``: the affine layers before each node, first to last; the last node is the neurons. The first
    layers take ``frames``.
    """

    frames: Tensor
    steps: int
    path: Sequence[_Passed]
    weighted: nn.Linear | nn.Conv1d | nn.Conv2d
    stage: Neurons

    def currents(self) -> Tensor:
        """``[F, B, ...]``, F = 1 for an image."""
        frames = self.frames
        for layers, node in self.path[:-1]:
            frames = node.run([_apply(layers, frames)], self.steps)
        return _apply(self.path[-1].layers, frames)

    def spikes(self) -> Tensor:
        """``[T, B, ...]``."""
        return self.stage.trace(self.currents(), self.steps).spikes


def _hidden(network: SpikingNetwork, x0: Tensor) -> Iterator[_Hidden]:
    """The layers of neurons with weights, first to last; each is driven by those before it as they now are.

    Filters and maxima may stand between the weights and the neurons. Batch norm acts in training by the
    batch's statistics, which no scale of the weights changes: layers before a norm are left out. So are those
    before a sum: its currents are several layers' together.
    """
    plan, _ = network.plan()
    frames, steps = network.input.frames(x0, None)
    values, nodes = [frames], list[Node]()
    for planned in plan.nodes:
        node = planned.make(tuple(Link(wire.source, ()) for wire in planned.wires))
        nodes.append(node)
        if isinstance(node, Neurons):
            source, path = _path(plan, nodes, len(nodes))
            on_it = [layer for layers, _ in path for layer in layers]
            weighted = [one for one in on_it if isinstance(one, WITH_WEIGHTS)]
            if weighted and not any(isinstance(one, BatchNorm) for one in on_it):
                yield _Hidden(values[source], steps, path, weighted[-1], node)
        values.append(node.run([_apply(wire.layers, values[wire.source]) for wire in planned.wires], steps))


def _path(plan: Plan, nodes: Sequence[Node], number: int) -> tuple[int, list[_Passed]]:
    """What leads to a node (counted from 1) from its last weights on, and the source of it all."""
    source, layers = plan.nodes[number - 1].wires[0]
    passed = _Passed(layers, nodes[number - 1])
    weighted = any(isinstance(layer, WITH_WEIGHTS) for layer in layers)
    starts = weighted or source == 0 or isinstance(nodes[source - 1], Neurons)
    if starts or len(nodes[source - 1].links) > 1:
        return source, [passed]
    first, before = _path(plan, nodes, source)
    return first, [*before, passed]


def _apply(layers: Sequence[nn.Module], frames: Tensor) -> Tensor:
    """The layers on frames ``[F, B, ...]``, in eval mode."""
    for layer in layers:
        frames = over_time(as_affine(layer).apply, frames)
    return frames
