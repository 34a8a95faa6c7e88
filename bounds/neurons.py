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

from typing import Any, NamedTuple

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import UNDERFLOW, Interval, intersect
from certsnn.neurons import Dynamics, carry_above, carry_below, fire, integrate
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
    v_low = v_high = dynamics.initial.expand(currents.lower.shape[1:])
    rows = []
    for t, (low, high) in enumerate(zip(*currents, strict=True)):
        u_low, u_high = integrate(v_low, low), integrate(v_high, high)
        if within is not None:
            u_low, u_high = intersect(Interval(u_low, u_high), Interval(within.lower[t], within.upper[t]))
        s_low, v_low = fire(u_low, dynamics)
        s_high, v_high = fire(u_high, dynamics)
        unstable = s_low != s_high
        v_low = torch.where(unstable, torch.minimum(v_low, least_fired), v_low)
        v_high = torch.where(unstable, torch.maximum(v_high, most_silent), v_high)
        rows.append((u_low, u_high, s_low, s_high))
    u_low, u_high, s_low, s_high = (torch.stack(column) for column in zip(*rows, strict=True))
    return StepScan(Interval(u_low, u_high), Interval(s_low, s_high))


class CountScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the spikes so far, and of membranes' rounding errors (None: left out)."""

    counts: Interval
    error: Tensor | None


class _Counts(torch.autograd.Function):
    """``n_t = n_{t-1} + 1[charge_t + offset n_{t-1} >= threshold]``; the surrogate's gradient backward."""

    @staticmethod
    def forward(ctx: Any, charge: Tensor, threshold: Tensor, offset: Tensor, surrogate: Surrogate) -> Tensor:
        counts, above = torch.empty_like(charge), torch.empty_like(charge)
        n = torch.zeros_like(charge[0])
        for t, charged in enumerate(charge):
            u = torch.addcmul(charged, offset, n)
            torch.sub(u, threshold, out=above[t])
            n = torch.add(n, u >= threshold, out=counts[t])
        ctx.save_for_backward(above, counts, threshold, offset)
        ctx.surrogate = surrogate
        return counts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        above, counts, threshold, offset = ctx.saved_tensors
        slopes = ctx.surrogate.derivative(above)
        to_charge, to_n = torch.empty_like(above), torch.zeros_like(above[0])
        for t in reversed(range(len(above))):
            to_n = to_n + gradients[0][t]
            torch.mul(to_n, slopes[t], out=to_charge[t])
            to_n.addcmul_(offset, to_charge[t])
        _, threshold_wanted, offset_wanted, _ = ctx.needs_input_grad
        to_threshold = -to_charge.sum_to_size(threshold.shape) if threshold_wanted else None
        # The count before step t is that of step t - 1, and 0 before the first.
        to_offset = (to_charge[1:] * counts[:-1]).sum_to_size(offset.shape) if offset_wanted else None
        return to_charge, to_threshold, to_offset, None


def scan_counts(cumulative: Interval, dynamics: Dynamics, unit: float) -> CountScan:
    r"""Bounds of a layer's spike counts, for cumulative currents ``[T, B, ...]``.

    The executed membrane is ``u_t = initial + C_t + offset N_{t-1}`` up to the rounding error E of its
    additions: the lower count is simulated on ``C - E``, the upper one on ``C + E``. ``unit`` is the unit
    roundoff; 0 leaves rounding out.
    """
    low, high = dynamics.initial + cumulative.lower, dynamics.initial + cumulative.upper
    error = None
    if unit:
        error = accumulated_rounding(torch.maximum(low.abs(), high.abs()), dynamics, unit)
        low, high = low - error, high + error
    rule = (dynamics.threshold, dynamics.offset, dynamics.surrogate)
    return CountScan(Interval(_Counts.apply(low, *rule), _Counts.apply(high, *rule)), error)


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
