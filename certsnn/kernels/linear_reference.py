"""The kernels of linear bounds in torch."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor

from certsnn.dynamics import Dynamics
from certsnn.kernels.linear import LinearKernels
from certsnn.kernels.lines import Scanned, joint_forms, scan_back
from certsnn.kernels.points import Points, summed


class LinearReference(LinearKernels, ABC):
    """Plain torch; gradients by autograd, from values that are made anew."""

    def joint_scan(
        self, a: Tensor, carried: Tensor, low: Tensor, high: Tensor, dynamics: Dynamics, follow: Tensor | None
    ) -> Scanned:
        return scan_back(joint_forms(low, high, dynamics), a, carried, follow)

    def joint_gradient(
        self,
        a: Tensor,
        carried: Tensor,
        low: Tensor,
        high: Tensor,
        dynamics: Dynamics,
        follow: Tensor | None,
        k: Tensor,
        to: Scanned,
    ) -> tuple[Tensor, ...]:
        return joint_gradient((a, carried, low, high), dynamics, follow, to)

    def held_line(self, a: Tensor, trains: Sequence[Sequence[int]], points: Points) -> tuple[Tensor, Tensor]:
        heights = points.heights(summed(a, trains))
        k = points.middle(heights)
        return k, points.intercept(heights, k)

    def missed(self, k: Tensor, error: Tensor) -> Tensor:
        lost = k.new_zeros(len(k), *k.shape[2:])
        for t in range(k.shape[1]):
            lost = lost + k[:, t].abs() * error[t if len(error) > 1 else 0]
        return lost


def joint_gradient(
    arrays: Sequence[Tensor], dynamics: Dynamics, follow: Tensor | None, to: Scanned
) -> tuple[Tensor, ...]:
    """`LinearKernels.joint_gradient` of a, carried, low and high, by autograd."""
    given = [x.detach().requires_grad_() for x in (*arrays, *dynamics.numbers())]
    a, carried, low, high, *numbers = given
    threshold, decay, initial, gain, offset = numbers
    leaves = dynamics._replace(threshold=threshold, decay=decay, initial=initial, gain=gain, offset=offset)
    with torch.enable_grad():
        found = scan_back(joint_forms(low, high, leaves), a, carried, follow)
    return torch.autograd.grad(found, given, to, materialize_grads=True)
