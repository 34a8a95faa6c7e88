"""The joint relaxation scanned back through time, with its gradient written out: one node of a graph."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.dynamics import Dynamics
from certsnn.kernels.choice import kernels
from certsnn.kernels.lines import Scanned


@final
class _JointScan(torch.autograd.Function):
    """From coefficients, ends and numbers (`NUMBERS`), keeping those and the slopes alone."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        carried: Tensor,
        low: Tensor,
        high: Tensor,
        dynamics: Dynamics,
        follow: Tensor | None,
        *numbers: Tensor,
    ) -> Any:
        given = [x.contiguous() for x in (a, carried, low, high)]
        a, carried, low, high = given
        k, intercepts = kernels(given, numbers).joint_scan(a, carried, low, high, dynamics, follow)
        ctx.save_for_backward(*given, k)
        ctx.dynamics, ctx.follow = dynamics, follow
        return k, intercepts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        a, carried, low, high, k = ctx.saved_tensors
        numbers = ctx.dynamics.numbers()
        to = Scanned(*(x.contiguous() for x in gradients))
        chosen = kernels([a, carried, low, high, k, *to], numbers)
        found = chosen.joint_gradient(a, carried, low, high, ctx.dynamics, ctx.follow, k, to)
        ends, wanted = found[:4], ctx.needs_input_grad[6:]
        sums = zip(found[4:], numbers, wanted, strict=True)
        return *ends, None, None, *(x.sum_to_size(number.shape) if w else None for x, number, w in sums)


def joint_scan(
    a: Tensor, carried: Tensor, low: Tensor, high: Tensor, dynamics: Dynamics, follow: Tensor | None
) -> Scanned:
    """`kernels.base.Kernels.joint_scan`, with gradients towards all tensors but the places."""
    return Scanned(*_JointScan.apply(a, carried, low, high, dynamics, follow, *dynamics.numbers()))
