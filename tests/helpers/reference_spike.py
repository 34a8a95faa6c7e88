"""A spike whose gradient is written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from certsnn.surrogates import Surrogate


class ReferenceSpike(torch.autograd.Function):
    """A spike of its own, so that the reference shares nothing with the code under test."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * ctx.surrogate.derivative(x), None
