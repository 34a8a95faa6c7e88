"""Gradients for code that is called within `torch.inference_mode`, or on tensors made there.

Autograd records nothing in inference mode, and never saves a tensor that was made there. So gradient attacks
and optimised slopes leave it, and work on copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Inference mode left for a while, without gradients as in it; elsewhere nothing changes."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # leaving it alone turns gradients on
        yield


def usable(x: Tensor) -> Tensor:
    """The tensor, or a copy that autograd takes."""
    return x.clone() if x.is_inference() else x


def usable_network(network: Network) -> Network:
    """The network, or a copy whose parameters autograd takes."""
    tensors = chain(network.parameters(), network.buffers())
    return deepcopy(network) if any(tensor.is_inference() for tensor in tensors) else network
