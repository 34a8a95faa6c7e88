"""Parts of the tests of single input sets."""

from __future__ import annotations

import torch

from certsnn.inputsets import (
    NestedTrains,
)

# NestedTrains and CoupledBernoulli


def nested(noise: list[float], lower: float = 0.0, upper: float = 1.0) -> NestedTrains:
    pixels = (torch.tensor([[limit]]) for limit in (lower, upper))
    return NestedTrains(torch.tensor(noise).view(-1, 1, 1), *pixels)
