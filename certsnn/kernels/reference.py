"""The kernels in torch: an operation at a time, on every device and for every dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from certsnn.dynamics import (
    Dynamics,
    Ends,
    added,
    edges_of,
    fires,
    integrate,
    parameter_gradients,
    pull_back,
)
from certsnn.kernels.base import Bounds, Kernels, Optional
from certsnn.kernels.gradients import Pull, add_counting, at, counting
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

    def pull_scan(
        self, trace: Sequence[Tensor], dynamics: Dynamics, gradients: Optional, held: bool, wanted: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (membranes, spikes), (to_membranes, to_spikes) = trace, gradients
        to_v = torch.zeros_like(membranes[0])
        to_currents = torch.zeros_like(membranes[:1]) if held else torch.empty_like(membranes)
        sums: dict[str, Tensor] = {}
        for t in reversed(range(len(membranes))):
            u, fired = membranes[t], spikes[t]
            to_u, through = pull_back(u, fired, dynamics, at(to_spikes, t), to_v)
            if wanted:
                sums = added(sums, parameter_gradients(u, fired, dynamics, through, to_v))
            to_v = to_u if to_membranes is None else to_u.add_(to_membranes[t])
            if held:
                to_currents[0] += to_v
            else:
                to_currents[t] = to_v
        if wanted:
            sums["initial"] = to_v.sum_to_size(dynamics.initial.shape)  # it enters step 1
        return to_currents, sums

    def step_scan(self, currents: Ends, dynamics: Dynamics) -> Bounds:
        return _bounds(currents, dynamics, lambda t, u: None)

    def step_scan_within(self, currents: Ends, within: Ends, dynamics: Dynamics) -> Bounds:
        def narrow(t: int, u: Ends) -> None:
            low, high = torch.maximum(u[0], within[0][t]), torch.minimum(u[1], within[1][t])
            torch.minimum(low, high, out=u[0])
            torch.maximum(low, high, out=u[1])

        return _bounds(currents, dynamics, narrow)

    def pull_step_scan(
        self,
        bounds: Bounds,
        dynamics: Dynamics,
        gradients: tuple[Optional, Optional],
        wanted: bool,
    ) -> tuple[Ends, Sequence[Tensor | None]]:
        (membranes, spikes), (to_membranes, to_spikes) = bounds, gradients
        pull = Pull(dynamics, edges_of(dynamics), wanted)
        low, high = membranes
        to_currents = torch.empty_like(low), torch.empty_like(high)
        carried = [torch.zeros_like(end[0]) for end in membranes]
        for t in reversed(range(len(low))):
            here = ([x[t] for x in membranes], [x[t] for x in spikes], [at(x, t) for x in to_spikes])
            for end, to_u in enumerate(pull.step(*here, carried)):
                direct = at(to_membranes[end], t)
                carried[end] = to_u if direct is None else to_u.add_(direct)
                to_currents[end][t] = carried[end]
        pull.enter(carried)
        return to_currents, pull.towards_parameters()

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
            u += n * dynamics.offset  # two operations, and not `torch.addcmul`: see `pull_back`
            torch.ge(u, dynamics.threshold, out=counts[t])
            n = counts[t].add_(n)
        return membranes, counts

    def pull_count_scan(
        self, scanned: Sequence[Tensor], held: bool, dynamics: Dynamics, to_counts: Tensor, wanted: bool
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        membranes, counts = scanned
        to_sums = torch.zeros_like(membranes[:1]) if held else torch.empty_like(membranes)
        to_n = torch.zeros_like(membranes[0])
        sums = [torch.zeros_like(number) for number in counting(dynamics)]
        for t in reversed(range(len(membranes))):
            to_n += to_counts[t]
            to_u = to_n * dynamics.surrogate.derivative(membranes[t] - dynamics.threshold)
            to_n += to_u * dynamics.offset
            if held:
                to_sums[0] += to_u * (t + 1)
            else:
                to_sums[t] = to_u
            if wanted:
                add_counting(sums, to_u, counts[t - 1] if t else None)
        return to_sums, sums if wanted else (None, None, None)


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
