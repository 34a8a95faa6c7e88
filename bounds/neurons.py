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

from typing import NamedTuple

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import UNDERFLOW, Interval
from certsnn.neurons import Dynamics, branch, carry_above, carry_below, integrate
from certsnn.surrogates import spike


class StepScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the membranes before firing and of the spikes."""

    membranes: Interval
    spikes: Interval


def scan_steps(currents: Interval, dynamics: Dynamics) -> StepScan:
    """Bounds of a layer's membranes and spikes at every step, for currents ``[T, B, ...]``."""
    threshold, surrogate = dynamics.threshold, dynamics.surrogate
    least_fired = carry_above(threshold, dynamics)
    most_silent = carry_below(threshold, dynamics)
    v_low = v_high = dynamics.initial.expand(currents.lower.shape[1:])
    rows = []
    for low, high in zip(currents.lower, currents.upper, strict=True):
        low, high = integrate(v_low, low), integrate(v_high, high)
        s_low, s_high = spike(low, threshold, surrogate), spike(high, threshold, surrogate)
        unstable = s_low != s_high
        v_low = branch(s_low, carry_above(low, dynamics), carry_below(low, dynamics))
        v_high = branch(s_high, carry_above(high, dynamics), carry_below(high, dynamics))
        v_low = torch.where(unstable, torch.minimum(v_low, least_fired), v_low)
        v_high = torch.where(unstable, torch.maximum(v_high, most_silent), v_high)
        rows.append((low, high, s_low, s_high))
    low, high, s_low, s_high = (torch.stack(column) for column in zip(*rows, strict=True))
    return StepScan(Interval(low, high), Interval(s_low, s_high))


class CountScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the spikes so far, and of the accumulated rounding error of membranes."""

    counts: Interval
    error: Tensor


def scan_counts(cumulative: Interval, dynamics: Dynamics, unit: float) -> CountScan:
    r"""Bounds of a layer's spike counts, for cumulative currents ``[T, B, ...]``.

    The executed membrane is ``u_t = initial + C_t + offset N_{t-1}`` up to the rounding errors of its
    additions, at most ``unit`` times the results: ``E_t = E_{t-1} + unit (|u_t| + |v_t|)``. The lower count
    is simulated on ``C - E``, the upper one on ``C + E``. ``unit = 0`` leaves rounding out.
    """
    threshold, initial, offset, surrogate = (
        dynamics.threshold,
        dynamics.initial,
        dynamics.offset,
        dynamics.surrogate,
    )
    charge_low, charge_high = initial + cumulative.lower, initial + cumulative.upper
    n_low = n_high = error = torch.zeros_like(charge_low[0])
    rows = []
    for low, high in zip(charge_low, charge_high, strict=True):
        reset_low, reset_high = offset * n_low, offset * n_high
        if unit:
            least = low + torch.minimum(reset_low, reset_high)
            most = high + torch.maximum(reset_low, reset_high)
            size = torch.maximum(least.abs(), most.abs()) + error
            # The float64 operations of these very lines are off by far less than the added 2^-49.
            own = 2.0**-49 * (low.abs() + high.abs() + reset_low.abs() + reset_high.abs())
            error = error + unit * (1 + 2.0**-10) * size + (own + UNDERFLOW)
            low, high = low - error, high + error
        n_low = n_low + spike(low + reset_low, threshold, surrogate)
        n_high = n_high + spike(high + reset_high, threshold, surrogate)
        rows.append((n_low, n_high, error))
        if unit:
            error = error + unit * (1 + 2.0**-10) * (size + offset.abs())
    n_low, n_high, error = (torch.stack(column) for column in zip(*rows, strict=True))
    return CountScan(Interval(n_low, n_high), error)


def membranes_of_counts(cumulative: Interval, scan: CountScan, dynamics: Dynamics) -> Interval:
    """Bounds ``[T, B, ...]`` of the membranes before firing that the count domain implies."""
    low, high = (
        dynamics.offset * torch.cat([torch.zeros_like(n[:1]), n[:-1]]) for n in scan.counts
    )
    return Interval(
        dynamics.initial + cumulative.lower + torch.minimum(low, high) - scan.error,
        dynamics.initial + cumulative.upper + torch.maximum(low, high) + scan.error,
    )


def steps_of_counts(counts: Interval) -> Interval:
    """Bounds of the spike at each step: ``max(0, N_L,t - N_U,t-1) <= s_t <= min(1, N_U,t - N_L,t-1)``."""
    before_low, before_high = (torch.cat([torch.zeros_like(n[:1]), n[:-1]]) for n in counts)
    return Interval(
        (counts.lower - before_high).clamp_min(0), (counts.upper - before_low).clamp_max(1)
    )
