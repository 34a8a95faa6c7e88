"""Networks of other libraries, for the tests of imports."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

needs_snntorch = pytest.mark.skipif(find_spec("snntorch") is None, reason="snnTorch is not installed")
needs_spikingjelly = pytest.mark.skipif(
    find_spec("spikingjelly") is None, reason="SpikingJelly is not installed"
)
needs_norse = pytest.mark.skipif(find_spec("norse") is None, reason="Norse is not installed")
needs_nir = pytest.mark.skipif(find_spec("nir") is None, reason="nir is not installed")


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def spikes(steps: int = 6, batch: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return (torch.rand(steps, batch, 1, 8, 8, generator=draw) < 0.3).float()


class Looping(nn.Module):
    """The usual form of a network of snnTorch: a loop over time, states in variables, functional pooling."""

    def __init__(self, neuron: Callable[[], nn.Module], steps: int = 6) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lif1 = neuron()
        self.fc = nn.Linear(64, 3)
        self.lif2 = neuron()
        with torch.no_grad():  # so that neurons of both layers fire
            self.conv.weight.mul_(3)
            self.fc.weight.mul_(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membranes ``[T, B, 3]`` of images ``[B, 1, 8, 8]``."""
        first, second = self.lif1.reset_mem(), self.lif2.reset_mem()  # type: ignore[operator]
        outputs, membranes = [], []
        for _ in range(self.steps):
            out, first = self.lif1(F.max_pool2d(self.conv(x), 2), first)
            out, second = self.lif2(self.fc(2 * out.view(x.size(0), -1)), mem=second)
            outputs.append(out)
            membranes.append(second)
        return torch.stack(outputs), torch.stack(membranes)


def jelly(neuron: Callable[[], nn.Module]) -> nn.Sequential:
    """Convolution, batch norm, pooling and a voting layer of SpikingJelly's, a step at a time."""
    from spikingjelly.activation_based import layer

    network = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron(),
        layer.MaxPool2d(2, 2),
        layer.Flatten(),
        layer.Dropout(0.5),
        layer.Linear(64, 6),
        neuron(),
        layer.VotingLayer(2),
    )
    norm: Any = network[1]
    last: Any = network[6]
    norm.running_mean.normal_(0, 0.1)
    norm.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():  # so that neurons of both layers fire
        norm.bias.fill_(1.0)
        last.weight.mul_(4)
    return network


class Repeating(nn.Module):
    """A network of SpikingJelly's that repeats its images over time and takes the rate (step mode "m")."""

    def __init__(self, body: nn.Module, steps: int = 6) -> None:
        super().__init__()
        self.body, self.steps = body, steps

    def forward(self, x: Tensor) -> Tensor:
        """Rates ``[B, K]`` of images ``[B, 1, 8, 8]``."""
        rates: Tensor = self.body(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1)).mean(0)
        return rates
