"""Checks of the arguments that bounds and attacks share."""

from __future__ import annotations

import torch
from torch import Tensor

from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork


def check_question(network: SpikingNetwork, x: Tensor, threat: Threat) -> None:
    """Raise TypeError unless these are a network, a tensor and a threat."""
    if not isinstance(network, SpikingNetwork):
        kind, wrapped = type(network).__name__, getattr(network, "module", None)
        remedy = "pass its .module" if isinstance(wrapped, SpikingNetwork) else "make one of its layers"
        raise TypeError(f"a SpikingNetwork is needed, not {kind}: {remedy}")
    if isinstance(threat, (int, float)):
        raise TypeError(f"a threat is needed, {threat} is a number: LinfBall({threat}) moves pixels by it")
    if not isinstance(threat, Threat):
        raise TypeError(f"a threat is needed, e.g. LinfBall(0.1), not {type(threat).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"the input must be a tensor, not {type(x).__name__}: use torch.as_tensor")


def check_labels(name: str, y: Tensor, batch: int, classes: int, device: torch.device) -> None:
    """Raise TypeError or ValueError unless y holds classes, int64 ``[batch]``, on the device."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be int64 [{batch}], got {type(y).__name__}: use torch.as_tensor")
    if y.shape != (batch,) or y.dtype != torch.int64:
        remedy = "one class a sample"
        if y.shape == (batch, classes):
            remedy = "classes of one-hot rows are y.argmax(1)"
        elif y.shape == (batch,):
            remedy = "convert with y.long()"
        raise ValueError(f"{name} must be int64 [{batch}], got {y.dtype} {list(y.shape)}: {remedy}")
    if y.device != device:
        raise ValueError(f"{name} is on {y.device}, the input on {device}; move one of them")
    if batch and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise ValueError(
            f"{name} must lie in 0..{classes - 1}, got {int(y.min())}..{int(y.max())}: count from 0"
        )
