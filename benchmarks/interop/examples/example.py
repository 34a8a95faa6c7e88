"""What an example network is: where it comes from, and how it is made small enough to be imported at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn


@final
class Example(NamedTuple):
    """A network of a library's tutorials, examples or models.

    ``name``: where it stands there, and what it is. ``make``: the network, an input, and the arguments of the
    import. ``own``: whether the class is the library's own; else it is written again from its description.
    """

    name: str
    make: Callable[[], tuple[Any, Tensor, dict[str, Any]]]
    own: bool = False


def images(*shape: int, batch: int = 2) -> Tensor:
    """Random images."""
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))


def events(*shape: int, steps: int = 25, batch: int = 2) -> Tensor:
    """Random spikes ``[T, B, ...]``."""
    draw = torch.Generator().manual_seed(0)
    return (torch.rand(steps, batch, *shape, generator=draw) < 0.3).float()


def loud(module: nn.Module, factor: float = 3.0) -> nn.Module:
    """The module with larger weights, so that neurons of all layers fire without training."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d, nn.BatchNorm2d)):
                part.weight.mul_(factor)
            if isinstance(part, nn.BatchNorm2d):
                part.bias.add_(0.3)
    return module
