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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Interval, intersect
from certsnn.dynamics import (
    NUMBERS,
    Dynamics,
    Ends,
    added,
    carry_above,
    carry_below,
    edges_of,
    fires,
    integrate,
    parameter_gradients,
    pull_back,
)
from certsnn.kernels.choice import kernels
from certsnn.surrogates import Surrogate


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
    u = Interval(*(integrate(dynamics.initial, end[0]) for end in currents))
    # What follows the last step is left.
    after = (torch.cat([end[1:], end[:1]]) for end in currents)
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
        pull = _Pull(ctx.dynamics, (least_fired, most_silent), any(ctx.needs_input_grad[4:]))
        to_u = pull.step(ends[:2], ends[2:], gradients[:2], gradients[2:])
        return *to_u, *gradients[2:], *pull.towards_parameters()


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
        ctx.save_for_backward(u_low, u_high, s_low, s_high, least_fired, most_silent)
        ctx.set_materialize_grads(False)
        ctx.dynamics = dynamics
        return u_low, u_high, s_low, s_high

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        *ends, least_fired, most_silent = ctx.saved_tensors
        membranes, spikes = ends[:2], ends[2:]
        to_membranes, to_spikes = gradients[:2], gradients[2:]
        pull = _Pull(ctx.dynamics, (least_fired, most_silent), any(ctx.needs_input_grad[2:]))
        to_currents = [torch.empty_like(end) for end in membranes]
        carried = [torch.zeros_like(end[0]) for end in membranes]
        for t in reversed(range(len(membranes[0]))):
            here = ([x[t] for x in membranes], [x[t] for x in spikes], [_at(x, t) for x in to_spikes])
            for end, to_u in enumerate(pull.step(*here, carried)):
                direct = _at(to_membranes[end], t)
                carried[end] = to_u if direct is None else to_u.add_(direct)
                to_currents[end][t] = carried[end]
        pull.enter(carried)
        return *to_currents, *pull.towards_parameters()


@final
class _Pull:
    """Gradients of a scan of bounds, step by step from the last; those towards its parameters add up."""

    def __init__(self, dynamics: Dynamics, edges: Ends, wanted: bool) -> None:
        self.dynamics, self.edges, self.wanted = dynamics, edges, wanted
        self.to_edges = [torch.zeros_like(edge) for edge in edges]
        self.sums = {name: torch.zeros_like(getattr(dynamics, name)) for name in NUMBERS}

    def step(
        self,
        membranes: Sequence[Tensor],
        spikes: Sequence[Tensor],
        to_spikes: Sequence[Tensor | None],
        to_next: Sequence[Tensor],
    ) -> list[Tensor]:
        """Gradients towards one step's membranes, from those towards its spikes and the next membranes."""
        found = []
        for end, replaced in enumerate(_replaced(membranes, spikes, self.edges, self.dynamics)):
            u, fired, to_v = membranes[end], spikes[end], to_next[end]
            kept = torch.addcmul(to_v, to_v, replaced, value=-1)
            to_u, through = pull_back(u, fired, self.dynamics, to_spikes[end], kept)
            if self.wanted:
                self.to_edges[end] += (to_v - kept).sum_to_size(self.edges[end].shape)
                self.sums = added(self.sums, parameter_gradients(u, fired, self.dynamics, through, kept))
            found.append(to_u)
        return found

    def enter(self, to_first: Sequence[Tensor]) -> None:
        """The gradients towards the first membranes, which the initial potential enters."""
        if self.wanted:
            self.sums["initial"] = (to_first[0] + to_first[1]).sum_to_size(self.dynamics.initial.shape)

    def towards_parameters(self) -> tuple[Tensor | None, ...]:
        """Gradients towards the edges, the dynamics (none) and their numbers."""
        if not self.wanted:
            return (None,) * (3 + len(self.sums))
        return (*self.to_edges, None, *self.sums.values())


def _at(gradient: Tensor | None, t: int) -> Tensor | None:
    return None if gradient is None else gradient[t]


def _replaced(
    membranes: Sequence[Tensor], spikes: Sequence[Tensor], edges: Ends, dynamics: Dynamics
) -> tuple[Tensor, Tensor]:
    """Where a carried lower and upper bound is the one that the other branch has at the threshold (0 or 1).

    Only where the neuron is unstable: there the lower membrane is silent, and the upper one fires. (Bounds
    that cross by noise are left alone.)
    """
    unstable = torch.lt(spikes[0], spikes[1], out=torch.empty_like(spikes[0]))
    silent, fired = carry_below(membranes[0], dynamics), carry_above(membranes[1], dynamics)
    low = torch.gt(silent, edges[0], out=torch.empty_like(silent)).mul_(unstable)
    return low, torch.lt(fired, edges[1], out=torch.empty_like(fired)).mul_(unstable)


class CountScan(NamedTuple):
    """Bounds ``[T, B, ...]`` of the spikes so far, and of membranes' rounding errors (None: left out)."""

    counts: Interval
    error: Tensor | None


@final
class _Counts(torch.autograd.Function):
    """``n_t = n_{t-1} + 1[initial + C_t + offset n_{t-1} >= threshold]``, keeping what is compared.

    With ``held`` steps the only current ``[1, B, ...]`` is that of each step, so ``C_t = t I``; else C_t is
    given, ``[T, B, ...]``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sums: Tensor,
        held: int | None,
        initial: Tensor,
        threshold: Tensor,
        offset: Tensor,
        surrogate: Surrogate,
    ) -> Tensor:
        like = sums if held is None else sums.expand(held, *sums.shape[1:])
        membranes, counts = torch.empty_like(like), torch.empty_like(like)
        n = torch.zeros_like(membranes[0])
        for t, charge in enumerate(like):
            u = torch.add(initial, charge, alpha=1 if held is None else t + 1, out=membranes[t])
            u.addcmul_(n, offset)
            torch.ge(u, threshold, out=counts[t])
            n = counts[t].add_(n)
        ctx.save_for_backward(membranes, counts, initial, threshold, offset)
        ctx.held, ctx.surrogate = held is not None, surrogate
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        membranes, counts, *numbers = ctx.saved_tensors
        threshold, offset = numbers[1:]
        wanted = ctx.needs_input_grad[2:5]
        to_sums = torch.zeros_like(membranes[:1]) if ctx.held else torch.empty_like(membranes)
        to_n = torch.zeros_like(membranes[0])
        sums = [torch.zeros_like(number) for number in numbers]
        for t in reversed(range(len(membranes))):
            to_n += gradients[0][t]
            to_u = to_n * ctx.surrogate.derivative(membranes[t] - threshold)
            to_n.addcmul_(to_u, offset)
            if ctx.held:
                to_sums[0].add_(to_u, alpha=t + 1)
            else:
                to_sums[t] = to_u
            if any(wanted):
                terms = (to_u, -to_u, to_u * counts[t - 1] if t else torch.zeros_like(to_u))
                sums = [s + x.sum_to_size(s.shape) for s, x in zip(sums, terms, strict=True)]
        return to_sums, None, *(sums if any(wanted) else [None] * 3), None


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
    numbers = (dynamics.initial, dynamics.threshold, dynamics.offset, dynamics.surrogate)
    return Interval(*(_Counts.apply(end, held, *numbers) for end in ends))


def scan_counts(charge: Charge, dynamics: Dynamics, unit: float) -> CountScan:
    r"""Bounds of a layer's spike counts, from those of its cumulative currents.

    The executed membrane is ``u_t = initial + C_t + offset N_{t-1}`` up to the rounding error E of its
    additions: the lower count is simulated on ``C - E``, the upper one on ``C + E``. ``unit`` is the unit
    roundoff; 0 leaves rounding out.
    """
    if not unit:
        return CountScan(charge.counts(dynamics), None)
    low, high = (dynamics.initial + end for end in charge.sums)
    error = accumulated_rounding(torch.maximum(low.abs(), high.abs()), dynamics, unit)
    started = dynamics._replace(initial=torch.zeros_like(dynamics.initial))
    return CountScan(Summed(Interval(low - error, high + error)).counts(started), error)


def accumulated_rounding(charge: Tensor, dynamics: Dynamics, unit: float) -> Tensor:
    r"""A bound ``[T, B, ...]`` of a membrane's rounding error, from a bound of its charge's magnitude.

    Up to step t there are t additions of currents and t - 1 of the reset. Each is off by at most ``unit``
    times its result, which the largest charge so far and t resets bound: what lies between the two additions
    of a step, in either order, is a membrane but for one reset. This is doubled to cover the errors' own
    effect on the results, and the float64 arithmetic of these bounds:

    .. math:: E_t = 4\, unit \sum_{k \le t} (\max_{j \le k} |charge_j| + k |offset|)
    """
    reset = dynamics.offset.abs()
    largest, total = charge[0], torch.zeros_like(charge[0])
    errors = []
    for step, charge_now in enumerate(charge, 1):  # `cummax` walks against memory: many times slower
        largest = torch.maximum(largest, charge_now)
        total = total + (largest + step * reset)
        errors.append(4 * unit * total + step * (2 * UNDERFLOW))
    return torch.stack(errors)


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
