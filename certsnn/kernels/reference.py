"""The kernels in torch: an operation at a time, on every device and for every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from certsnn.dynamics import (
    Dynamics,
    Ends,
    edges_of,
    fires,
    integrate,
)
from certsnn.kernels.base import Bounds, Kernels
from certsnn.kernels.linear_reference import LinearReference
from certsnn.kernels.rounding import accumulated_rounding


@final
class Reference(LinearReference, Kernels):
    """Plain torch."""

    def scan(self, currents: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        held = currents.expand(steps, *currents.shape[1:])
        membranes, spikes = torch.empty_like(held), torch.empty_like(held)
        for t, current in enumerate(held):
            if t == 0:
                integrate(dynamics.initial, current, out=membranes[t])
            else:
                dynamics.order.advance(membranes[t - 1], spikes[t - 1], current, dynamics, out=membranes[t])
            fires(membranes[t], dynamics, out=spikes[t])
        return membranes, spikes

    def step_scan(self, currents: Ends, dynamics: Dynamics) -> Bounds:
        return _bounds(currents, dynamics, lambda t, u: None)

    def step_scan_within(self, currents: Ends, within: Ends, dynamics: Dynamics) -> Bounds:
        def narrow(t: int, u: Ends) -> None:
            low, high = torch.maximum(u[0], within[0][t]), torch.minimum(u[1], within[1][t])
            torch.minimum(low, high, out=u[0])
            torch.maximum(low, high, out=u[1])

        return _bounds(currents, dynamics, narrow)

    def widened(self, sums: Ends, dynamics: Dynamics, unit: float, underflow: float) -> tuple[Ends, Tensor]:
        low, high = (dynamics.initial + end for end in sums)
        error = accumulated_rounding(torch.maximum(low.abs(), high.abs()), dynamics.offset, unit, underflow)
        return (low - error, high + error), error

    def count_scan(self, sums: Tensor, held: int | None, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        like = sums if held is None else sums.expand(held, *sums.shape[1:])
        membranes, counts = torch.empty_like(like), torch.empty_like(like)
        n = torch.zeros_like(membranes[0])
        for t, charge in enumerate(like):
            so_far = charge if held is None else charge * (t + 1)
            u = torch.add(dynamics.initial, so_far, out=membranes[t])
            u += (
                n * dynamics.offset
            )  # two operations, and not `torch.addcmul`: torch contracts these on some processors
            torch.ge(u, dynamics.threshold, out=counts[t])
            n = counts[t].add_(n)
        return membranes, counts


def _bounds(currents: Ends, dynamics: Dynamics, narrow: Callable[[int, Ends], None]) -> Bounds:
    """`Kernels.step_scan`; a step's membranes are narrowed in place before they fire."""
    low, high = currents
    edges = edges_of(dynamics)
    u_low, u_high, s_low, s_high = (torch.empty_like(end) for end in (low, high, low, high))
    for t in range(len(low)):
        u = (u_low[t], u_high[t])
        if t == 0:
            for end, current in zip(u, (low[t], high[t]), strict=True):
                integrate(dynamics.initial, current, out=end)
        else:
            before = (u_low[t - 1], u_high[t - 1]), (s_low[t - 1], s_high[t - 1])
            dynamics.order.advance_ends(*before, (low[t], high[t]), edges, dynamics, out=u)
        narrow(t, u)
        fires(u_low[t], dynamics, out=s_low[t])
        fires(u_high[t], dynamics, out=s_high[t])
    return (u_low, u_high), (s_low, s_high)
