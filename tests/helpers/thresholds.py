"""A network of one neuron whose errors under LinfBall(0.1) are worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from certsnn.attacks import Attack, Oracle
from certsnn.attacks.base import EVERY
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
from certsnn.program import Program

Batches = list[tuple[Tensor, Tensor, Tensor]]


@final
@dataclass(frozen=True)
class Idle(Attack):
    """Finds nothing."""

    rounds: int = 0

    domains = EVERY

    def view(self, program: Program) -> Program:
        return program

    def search(self, oracle: Oracle) -> None:
        pass


def threshold_network() -> SpikingNetwork:
    """Logits (1, 0) for a pixel below 0.5, where the neuron is silent, else (0, 1)."""
    first, last = nn.Linear(1, 1, bias=False), nn.Linear(1, 2)
    with torch.no_grad():
        first.weight.fill_(2.0)
        last.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    return SpikingNetwork([first, IF(1.0), last], steps=1, readout="membrane", input="image").eval()


PIXELS = [0.2, 0.45, 0.9, 0.9, 0.55]


LABELS = [0, 0, 0, 1, 1]


def pixels(size: int = 5) -> Batches:
    """Certified, broken, misclassified, certified, broken under LinfBall(0.1), in batches of a size."""
    x, y, index = torch.tensor(PIXELS)[:, None], torch.tensor(LABELS), torch.arange(10, 15)
    return list(zip(x.split(size), y.split(size), index.split(size), strict=True))
