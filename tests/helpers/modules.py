"""The tensors of modules, typed."""

from __future__ import annotations

from torch import Tensor, nn


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer."""
    found = getattr(module, name)
    assert isinstance(found, Tensor)
    return found


def weight_of(module: nn.Module) -> Tensor:
    return tensor_of(module, "weight")
