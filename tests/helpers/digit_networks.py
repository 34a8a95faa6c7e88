"""Small networks for the digits."""

from __future__ import annotations

import torch
from torch import nn

from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF


def network_of(kind: Domain = "image", seed: int = 0) -> SpikingNetwork:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 20), IF(initial=0.5), nn.Dropout(0.2), nn.Linear(20, 10)]
    return SpikingNetwork(layers, 3, "membrane", kind)
