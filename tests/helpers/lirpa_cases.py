"""What the tests of auto_LiRPA share."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product

import pytest
import torch
from dynamics import changed
from torch import Tensor, nn

from certsnn.bounds.interval.propagate import others
from certsnn.layers import Normalize, Scale, SumPool2d
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Dynamics, Neuron

needs_engine = pytest.mark.skipif(find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed")


# Firing and carry in one dimension.


def intervals(threshold: float) -> tuple[Tensor, Tensor]:
    """All [l, h] with ends on a grid that meets the threshold, and next to it."""
    ends = [threshold * part for part in (-4, -1, 0, 0.5, 0.9, 1, 1.1, 1.5, 2, 8)]
    at = torch.tensor(threshold)
    ends += [float(torch.nextafter(at, at.new_tensor(end))) for end in (-1e9, 1e9)]
    pairs = [(low, high) for low, high in product(ends, ends) if low <= high]
    lower, upper = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return lower, upper


def double(neuron: Neuron) -> Dynamics:
    return changed(neuron.dynamics(), lambda number: number.detach().double())


def executed_margins(network: SpikingNetwork, x: Tensor, y: Tensor) -> Tensor:
    logits: Tensor = network(x)
    return logits.gather(1, y[:, None]) - logits.gather(1, others(y, logits.shape[1]))


def normalised(norm: nn.Module, channels: int) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    norm.running_mean = torch.rand(channels, generator=generator) - 0.5
    norm.running_var = torch.rand(channels, generator=generator) + 0.2
    return norm


OPERATORS = {
    "linear": [nn.Flatten(), nn.Linear(2 * 6 * 5, 7, bias=False)],
    "linear twice": [nn.Flatten(), nn.Linear(2 * 6 * 5, 4), nn.Linear(4, 7)],
    "conv": [nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), bias=False)],
    "conv with dilations": [nn.Conv2d(2, 4, (2, 3), stride=2, padding=1, dilation=(2, 1), groups=2)],
    "pool": [nn.AvgPool2d(2, stride=1, padding=1)],
    "pool rounding up": [nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)],
    "pool with a divisor": [nn.AvgPool2d((2, 3), divisor_override=5), nn.Conv2d(2, 2, 1)],
    "normalize": [Normalize([0.3], [0.5])],
    "batch norm first": [normalised(nn.BatchNorm2d(2), 2)],
    "batch norm of features": [nn.Flatten(), normalised(nn.BatchNorm1d(60), 60), nn.Dropout()],
    "nothing": [],
    "one axis": [nn.Flatten(2), nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2, bias=False)],
    "pool over one axis": [nn.Flatten(2), nn.AvgPool1d(3, padding=1), normalised(nn.BatchNorm1d(2), 2)],
    "padding of one axis": [nn.Flatten(2), nn.ZeroPad1d((1, -2)), nn.AdaptiveAvgPool1d(4)],
    "sums and a gain": [SumPool2d(2), Scale(-0.3), nn.Flatten(), nn.Unflatten(1, (3, 4)), Scale(2.0)],
    "partial flatten": [nn.Flatten(2, 3), nn.Flatten(1, 2), nn.Linear(60, 3)],
}
