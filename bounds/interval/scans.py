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
The proofs are in docs/theory/intervals.md and docs/theory/counts.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Interval, intersect
from certsnn.dynamics import (
    Dynamics,
    edges_of,
    fires,
    integrate,
)
from certsnn.kernels.choice import kernels, recorded
from certsnn.kernels.gradients import Pull, counting, pull_count_scan, pull_step_scan


class StepScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the membranes before firing and of the spikes."""

    membranes: Interval
    spikes: Interval


def scan_steps(currents: Interval, dynamics: Dynamics, within: Interval | None = None) -> StepScan:
    """Bounds of a layer's membranes and spikes at every step, for currents ``[T, B, ...]``.

    ``within`` are other bounds of the membranes: each step goes on from what lies in both.
    """
    least_fired, most_silent = edges_of(dynamics)
    parameters = (least_fired, most_silent, dynamics, *dynamics.numbers())
    if within is None:
        u_low, u_high, s_low, s_high = _Steps.apply(*currents, *parameters)
        return StepScan(Interval(u_low, u_high), Interval(s_low, s_high))
    given = (*currents, *within)
    if not recorded((*given, *dynamics.numbers())):
        chosen = kernels(given, dynamics.numbers())
        membranes, spikes = chosen.step_scan_within(currents, within, dynamics)
        return StepScan(Interval(*membranes), Interval(*spikes))
    u = Interval(*(integrate(dynamics.initial, end[0]) for end in currents))
    # What would follow the last step is left.
    after = ([*end.unbind()[1:], end[-1]] for end in currents)
    rows = []
    for low, high, least, most in zip(*after, *within, strict=True):
        known = intersect(u, Interval(least, most))
        s_low, s_high, *ends = _Step.apply(*known, low, high, *parameters)
        rows.append((*known, s_low, s_high))
        u = Interval(*ends)
    u_low, u_high, s_low, s_high = (torch.stack(column) for column in zip(*rows, strict=True))
    return StepScan(Interval(u_low, u_high), Interval(s_low, s_high))


def next_membranes(u: Interval, currents: Interval, dynamics: Dynamics) -> Interval:
    """Bounds of the membranes ``[B, ...]`` after the next current, from those before it."""
    _, _, low, high = _Step.apply(*u, *currents, *edges_of(dynamics), dynamics, *dynamics.numbers())
    return Interval(low, high)


@final
class _Step(torch.autograd.Function):
    """The spikes of bounds ``u_low, u_high`` of the membranes, and those of the next step."""

    @staticmethod
    def forward(
        ctx: Any,
        u_low: Tensor,
        u_high: Tensor,
        low: Tensor,
        high: Tensor,
        least_fired: Tensor,
        most_silent: Tensor,
        dynamics: Dynamics,
        *parameters: Tensor,
    ) -> Any:
        u, edges = (u_low, u_high), (least_fired, most_silent)
        spikes = fires(u_low, dynamics), fires(u_high, dynamics)
        after = torch.empty_like(u_low), torch.empty_like(u_high)
        dynamics.order.advance_ends(u, spikes, (low, high), edges, dynamics, after)
        ctx.save_for_backward(*u, *spikes, *edges)
        ctx.dynamics = dynamics
        return *spikes, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        *ends, least_fired, most_silent = ctx.saved_tensors
        pull = Pull(ctx.dynamics, (least_fired, most_silent), any(ctx.needs_input_grad[4:]))
        to_u = pull.step(ends[:2], ends[2:], gradients[:2], gradients[2:])
        to_least, to_most, *to_numbers = pull.towards_parameters()
        return *to_u, *gradients[2:], to_least, to_most, None, *to_numbers


@final
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
        chosen = kernels((low, high), dynamics.numbers())
        (u_low, u_high), (s_low, s_high) = chosen.step_scan((low, high), dynamics)
        ctx.save_for_backward(u_low, u_high, s_low, s_high)
        ctx.set_materialize_grads(False)
        ctx.dynamics = dynamics
        return u_low, u_high, s_low, s_high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        u_low, u_high, s_low, s_high = ctx.saved_tensors
        bounds = (u_low, u_high), (s_low, s_high)
        to_currents, (to_least, to_most, *to_numbers) = pull_step_scan(
            bounds, ctx.dynamics, (gradients[:2], gradients[2:]), any(ctx.needs_input_grad[2:])
        )
        return *to_currents, to_least, to_most, None, *to_numbers


class CountScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the spikes so far, and of membranes' rounding errors (None: left out)."""

    counts: Interval
    error: Tensor | None


@final
class _Counts(torch.autograd.Function):
    """``n_t = n_{t-1} + 1[initial + C_t + offset n_{t-1} >= threshold]`` (`Kernels.count_scan`)."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, held: int | None, dynamics: Dynamics, *numbers: Tensor) -> Tensor:
        scanned = kernels([sums], numbers).count_scan(sums, held, dynamics)
        ctx.save_for_backward(*scanned)
        ctx.held, ctx.dynamics = held is not None, dynamics
        return scanned[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        scanned, dynamics, wanted = ctx.saved_tensors, ctx.dynamics, any(ctx.needs_input_grad[3:])
        to_sums, to_numbers = pull_count_scan(scanned, ctx.held, dynamics, gradients[0], wanted)
        return to_sums, None, None, *to_numbers


class Charge(ABC):
    """Bounds of the cumulative currents into a layer of neurons."""

    @property
    @abstractmethod
    def sums(self) -> Interval:
        """The bounds ``[T, B, ...]``."""

    @abstractmethod
    def counts(self, dynamics: Dynamics) -> Interval:
        """Bounds ``[T, B, ...]`` of the neurons' spikes so far, rounding left out."""


@final
@dataclass(frozen=True)
class Summed(Charge):
    """Cumulative currents that are known at each step."""

    given: Interval

    @property
    def sums(self) -> Interval:
        return self.given

    def counts(self, dynamics: Dynamics) -> Interval:
        return _simulated(self.given, None, dynamics)


@final
@dataclass(frozen=True)
class HeldCurrent(Charge):
    """``C_t = t I`` of a current ``[1, B, ...]`` that is held for T steps, which need not be laid out."""

    current: Interval
    steps: int

    @cached_property
    def sums(self) -> Interval:
        low, high = self.current
        times = torch.arange(1, self.steps + 1, dtype=low.dtype, device=low.device)
        times = times.view(-1, *[1] * (low.ndim - 1))
        return Interval(times * low, times * high)

    def counts(self, dynamics: Dynamics) -> Interval:
        return _simulated(self.current, self.steps, dynamics)


def _simulated(ends: Interval, held: int | None, dynamics: Dynamics) -> Interval:
    return Interval(*(_Counts.apply(end, held, dynamics, *counting(dynamics)) for end in ends))


def scan_counts(charge: Charge, dynamics: Dynamics, unit: float) -> CountScan:
    r"""Bounds of a layer's spike counts, from those of its cumulative currents.

    The executed membrane is ``u_t = initial + C_t + offset N_{t-1}`` up to the rounding error E of its
    additions: the lower count is simulated on ``C - E``, the upper one on ``C + E``. ``unit`` is the unit
    roundoff; 0 leaves rounding out.
    """
    if not unit:
        return CountScan(charge.counts(dynamics), None)
    chosen = kernels(charge.sums, counting(dynamics))
    ends, error = chosen.widened(charge.sums, dynamics, unit, UNDERFLOW)
    started = dynamics._replace(initial=torch.zeros_like(dynamics.initial))
    return CountScan(Summed(Interval(*ends)).counts(started), error)


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
