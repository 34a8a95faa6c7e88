r"""Interval bounds of a layer of neurons: step by step for every neuron, or in the count domain.

**Steps.** The neuron maps a membrane ``u`` in ``[l, h]`` to

====================== ============= ==================================================================
``h < threshold``      ``s = 0``     ``v`` in ``decay [l, h]``
``l >= threshold``     ``s = 1``     ``v`` in ``gain [l, h] + offset``
otherwise              ``s in 0, 1`` ``v`` in ``[min(decay l, gain threshold + offset),``
                                     ``max(decay threshold, gain h + offset)]``
====================== ============= ==================================================================

**Counts**, for a neuron that conserves charge. With the cumulative current ``C_t`` and the spike count
``N_t``, ``N_t = N_{t-1} + 1[initial + C_t + offset N_{t-1} >= threshold]`` is monotone in C and, being an
integer that grows by at most one a step, in ``N_{t-1}`` too. Simulating it on the lower and the upper
cumulative currents bounds ``N_t``: a spike that only moves in time costs no free bit at each step.
Source: design, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.bounds.arithmetic import UNDERFLOW, Interval, intersect
from certsnn.neurons import (
    Dynamics,
    carry,
    carry_above,
    carry_below,
    choose,
    fire,
    fires,
    integrate,
    parameter_gradients,
    pull_back,
)
from certsnn.surrogates import Surrogate


class StepScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the membranes before firing and of the spikes."""

    membranes: Interval
    spikes: Interval


def scan_steps(currents: Interval, dynamics: Dynamics, within: Interval | None = None) -> StepScan:
    """Bounds of a layer's membranes and spikes at every step, for currents ``[T, B, ...]``.

    ``within`` are other bounds of the membranes: each step goes on from what lies in both.
    """
    least_fired = carry_above(dynamics.threshold, dynamics)
    most_silent = carry_below(dynamics.threshold, dynamics)
    if within is None:
        u_low, u_high, s_low, s_high = _Steps.apply(
            *currents, least_fired, most_silent, dynamics, *dynamics[:5]
        )
        return StepScan(Interval(u_low, u_high), Interval(s_low, s_high))
    v_low = v_high = dynamics.initial.expand(currents.lower.shape[1:])
    rows = []
    for t, (low, high) in enumerate(zip(*currents, strict=True)):
        u_low, u_high = integrate(v_low, low), integrate(v_high, high)
        u_low, u_high = intersect(Interval(u_low, u_high), Interval(within.lower[t], within.upper[t]))
        s_low, v_low = fire(u_low, dynamics)
        s_high, v_high = fire(u_high, dynamics)
        unstable = (s_low - s_high).detach().abs()
        v_low = choose(v_low, torch.minimum(v_low, least_fired), unstable)
        v_high = choose(v_high, torch.maximum(v_high, most_silent), unstable)
        rows.append((u_low, u_high, s_low, s_high))
    u_low, u_high, s_low, s_high = (torch.stack(column) for column in zip(*rows, strict=True))
    return StepScan(Interval(u_low, u_high), Interval(s_low, s_high))


class _Steps(torch.autograd.Function):
    """All steps at once, keeping membranes and spikes alone."""

    @staticmethod
    def forward(
        ctx: Any,
        low: Tensor,
        high: Tensor,
        least_fired: Tensor,
        most_silent: Tensor,
        dynamics: Dynamics,
        *parameters: Tensor,
    ) -> Any:
        u_low, u_high, s_low, s_high = (torch.empty_like(end) for end in (low, high, low, high))
        v_low = v_high = dynamics.initial.expand(low.shape[1:])
        unstable = torch.empty_like(low[0])
        for t in range(len(low)):
            integrate(v_low, low[t], out=u_low[t])
            integrate(v_high, high[t], out=u_high[t])
            fires(u_low[t], dynamics, out=s_low[t])
            fires(u_high[t], dynamics, out=s_high[t])
            if t == len(low) - 1:
                break
            torch.ne(s_low[t], s_high[t], out=unstable)
            v_low, v_high = carry(u_low[t], s_low[t], dynamics), carry(u_high[t], s_high[t], dynamics)
            v_low = choose(v_low, torch.minimum(v_low, least_fired), unstable)
            v_high = choose(v_high, torch.maximum(v_high, most_silent), unstable)
        ctx.save_for_backward(u_low, u_high, s_low, s_high, least_fired, most_silent)
        ctx.set_materialize_grads(False)
        ctx.dynamics = dynamics
        return u_low, u_high, s_low, s_high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        *ends, least_fired, most_silent = ctx.saved_tensors
        membranes, spikes, edges = ends[:2], ends[2:], (least_fired, most_silent)
        to_membranes, to_spikes = gradients[:2], gradients[2:]
        dynamics: Dynamics = ctx.dynamics
        wanted = any(ctx.needs_input_grad[2:])
        to_currents = [torch.empty_like(end) for end in membranes]
        carried = [torch.zeros_like(end[0]) for end in membranes]
        to_edges = [torch.zeros_like(edge) for edge in edges]
        sums = [torch.zeros_like(parameter) for parameter in dynamics[:5]]
        for t in reversed(range(len(membranes[0]))):
            for end, replaced in enumerate(_replaced(membranes, spikes, edges, t, dynamics)):
                u, fired, to_v = membranes[end][t], spikes[end][t], carried[end]
                kept = torch.addcmul(to_v, to_v, replaced, value=-1)
                to_u, through = pull_back(u, fired, dynamics, _at(to_spikes[end], t), kept)
                if wanted:
                    to_edges[end] += (to_v - kept).sum_to_size(edges[end].shape)
                    found = parameter_gradients(u, fired, dynamics, through, kept)
                    sums = [s + f for s, f in zip(sums, found, strict=True)]
                direct = _at(to_membranes[end], t)
                carried[end] = to_u if direct is None else to_u.add_(direct)
                to_currents[end][t] = carried[end]
        if not wanted:
            return *to_currents, *[None] * 8
        sums[2] = (carried[0] + carried[1]).sum_to_size(sums[2].shape)  # what step 1 carries
        return *to_currents, *to_edges, None, *sums


def _at(gradient: Tensor | None, t: int) -> Tensor | None:
    return None if gradient is None else gradient[t]


def _replaced(
    membranes: Sequence[Tensor],
    spikes: Sequence[Tensor],
    edges: tuple[Tensor, Tensor],
    t: int,
    dynamics: Dynamics,
) -> tuple[Tensor, Tensor]:
    """Where a carried lower and upper bound is the one that the other branch has at the threshold (0 or 1).

    Only where the neuron is unstable: there the lower membrane is silent, and the upper one fires. (Bounds
    that cross by noise are left alone.)
    """
    unstable = torch.lt(spikes[0][t], spikes[1][t], out=torch.empty_like(spikes[0][t]))
    silent, fired = carry_below(membranes[0][t], dynamics), carry_above(membranes[1][t], dynamics)
    low = torch.gt(silent, edges[0], out=torch.empty_like(silent)).mul_(unstable)
    return low, torch.lt(fired, edges[1], out=torch.empty_like(fired)).mul_(unstable)


class CountScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the spikes so far, and of membranes' rounding errors (None: left out)."""

    counts: Interval
    error: Tensor | None


class _Counts(torch.autograd.Function):
    """``n_t = n_{t-1} + 1[initial + C_t + offset n_{t-1} >= threshold]``, keeping what is compared."""

    @staticmethod
    def forward(
        ctx: Any, cumulative: Tensor, initial: Tensor, threshold: Tensor, offset: Tensor, surrogate: Surrogate
    ) -> Tensor:
        membranes, counts = torch.empty_like(cumulative), torch.empty_like(cumulative)
        n = torch.zeros_like(cumulative[0])
        for t, current in enumerate(cumulative):
            u = torch.add(current, initial, out=membranes[t]).addcmul_(n, offset)
            torch.ge(u, threshold, out=counts[t])
            n = counts[t].add_(n)
        ctx.save_for_backward(membranes, counts, initial, threshold, offset)
        ctx.surrogate = surrogate
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        membranes, counts, initial, threshold, offset = ctx.saved_tensors
        to_charge, to_n = torch.empty_like(membranes), torch.zeros_like(membranes[0])
        for t in reversed(range(len(membranes))):
            slope = ctx.surrogate.derivative(membranes[t] - threshold)
            to_n = to_n.add_(gradients[0][t])
            torch.mul(to_n, slope, out=to_charge[t])
            to_n = to_n.addcmul_(to_charge[t], offset)
        _, to_initial, to_threshold, to_offset, _ = ctx.needs_input_grad
        return (
            to_charge,
            to_charge.sum_to_size(initial.shape) if to_initial else None,
            -to_charge.sum_to_size(threshold.shape) if to_threshold else None,
            (to_charge[1:] * counts[:-1]).sum_to_size(offset.shape) if to_offset else None,
            None,
        )


def scan_counts(cumulative: Interval, dynamics: Dynamics, unit: float) -> CountScan:
    r"""Bounds of a layer's spike counts, for cumulative currents ``[T, B, ...]``.

    The executed membrane is ``u_t = initial + C_t + offset N_{t-1}`` up to the rounding error E of its
    additions: the lower count is simulated on ``C - E``, the upper one on ``C + E``. ``unit`` is the unit
    roundoff; 0 leaves rounding out.
    """
    initial, rule = dynamics.initial, (dynamics.threshold, dynamics.offset, dynamics.surrogate)
    if not unit:
        low, high = (_Counts.apply(end, initial, *rule) for end in cumulative)
        return CountScan(Interval(low, high), None)
    low, high = initial + cumulative.lower, initial + cumulative.upper
    error = accumulated_rounding(torch.maximum(low.abs(), high.abs()), dynamics, unit)
    nothing = torch.zeros_like(initial)
    low, high = (_Counts.apply(end, nothing, *rule) for end in (low - error, high + error))
    return CountScan(Interval(low, high), error)


def accumulated_rounding(charge: Tensor, dynamics: Dynamics, unit: float) -> Tensor:
    r"""A bound ``[T, B, ...]`` of a membrane's rounding error, from a bound of its charge's magnitude.

    Up to step t there are t additions of currents and t - 1 of the reset. Each is off by at most ``unit``
    times its result, which the largest charge so far and t resets bound (``|v| <= |u| + |offset|``). This is
    doubled to cover the errors' own effect on the results, and the float64 arithmetic of these bounds:

    .. math:: E_t = 4\, unit \sum_{k \le t} (\max_{j \le k} |charge_j| + k |offset|)
    """
    steps = torch.arange(1, len(charge) + 1, dtype=charge.dtype, device=charge.device)
    steps = steps.view(-1, *[1] * (charge.ndim - 1))
    size = charge.cummax(0).values + steps * dynamics.offset.abs()
    return 4 * unit * size.cumsum(0) + steps * (2 * UNDERFLOW)


def membranes_of_counts(cumulative: Interval, scan: CountScan, dynamics: Dynamics) -> Interval:
    """Bounds ``[T, B, ...]`` of the membranes before firing that the count domain implies."""
    low, high = (dynamics.offset * torch.cat([torch.zeros_like(n[:1]), n[:-1]]) for n in scan.counts)
    lower = dynamics.initial + cumulative.lower + torch.minimum(low, high)
    upper = dynamics.initial + cumulative.upper + torch.maximum(low, high)
    if scan.error is None:
        return Interval(lower, upper)
    return Interval(lower - scan.error, upper + scan.error)


def steps_of_counts(counts: Interval) -> Interval:
    """Bounds of the spike at each step: ``max(0, N_L,t - N_U,t-1) <= s_t <= min(1, N_U,t - N_L,t-1)``."""
    before_low, before_high = (torch.cat([torch.zeros_like(n[:1]), n[:-1]]) for n in counts)
    return Interval((counts.lower - before_high).clamp_min(0), (counts.upper - before_low).clamp_max(1))
