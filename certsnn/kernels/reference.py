"""The kernels in torch: an operation at a time, on every device and for every dtype."""

from __future__ import annotations

from typing import final

import torch

from certsnn.dynamics import Dynamics, Ends, edges_of, fires, integrate
from certsnn.kernels.base import Kernels


@final
class Reference(Kernels):
    """Plain torch."""

    def step_scan(self, currents: Ends, dynamics: Dynamics) -> tuple[Ends, Ends]:
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
            fires(u_low[t], dynamics, out=s_low[t])
            fires(u_high[t], dynamics, out=s_high[t])
        return (u_low, u_high), (s_low, s_high)
