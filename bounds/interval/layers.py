"""What drives a layer: images, spikes known step by step, spike counts, or spikes under a flip budget.

A source bounds the currents that a chain of affine operators makes of it, in the domain that the next
neurons ask for: at each step, or summed over the steps so far. What joins several sources is in
`certsnn.bounds.interval.joints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.interval.arithmetic import Arithmetic, Interval, intersect
from certsnn.bounds.interval.scans import (
    Charge,
    CountScan,
    HeldCurrent,
    StepScan,
    Summed,
    membranes_of_counts,
    scan_counts,
    scan_steps,
    steps_of_counts,
)
from certsnn.bounds.linear.lines import Neuronwise, Pulled, at_neuron
from certsnn.neurons import Dynamics
from certsnn.program import hold

Operators = Sequence[Affine]


class Mean(NamedTuple):
    """Bounds ``[B, ...]`` of a mean over time as executed, and how far that may be from the exact one."""

    interval: Interval
    lost: Tensor


class Source(ABC):
    """Bounds of the values that enter a chain of affine operators.

    Frames ``[F, B, ...]`` are those of each step, F = T, or one that is the same at every step.
    """

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of steps T."""

    @abstractmethod
    def box(self) -> Interval:
        """Bounds ``[F, B, ...]`` of the values, each on its own."""

    def mean(self, arithmetic: Arithmetic, executed: torch.dtype) -> Mean:
        """The mean of the values over all steps."""
        low, high = (arithmetic.raised(hold(end, self.steps)) for end in self.box())
        size = torch.maximum(-low, high).sum(0)
        low, high, error = low.sum(0), high.sum(0), torch.zeros_like(size)
        if arithmetic.unit:
            error = arithmetic.gamma(self.steps) * size + self.steps * arithmetic.underflow
        ends = Interval((low - error).to(executed) / self.steps, (high + error).to(executed) / self.steps)
        return Mean(ends, (error + 2 * arithmetic.unit * size) / self.steps)

    @abstractmethod
    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        """Bounds ``[F, B, ...]`` of the chain's output, in the dtype of the products."""

    @abstractmethod
    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Charge:
        """Bounds of the chain's outputs summed over steps 1..t."""


class Layer(Source):
    """Bounds of a layer of neurons; what the next layer is driven by."""

    @property
    @abstractmethod
    def driven_by(self) -> Interval:
        """Bounds ``[T, B, ...]`` of what drives it: the currents or the cumulative currents."""

    @property
    @abstractmethod
    def membranes(self) -> Interval:
        """Bounds ``[T, B, ...]`` of the membranes before firing."""

    @property
    @abstractmethod
    def spikes(self) -> Interval:
        """Bounds ``[T, B, ...]`` of the spikes."""

    @final
    def box(self) -> Interval:
        return self.spikes

    @final
    def mean(self, arithmetic: Arithmetic, executed: torch.dtype) -> Mean:
        # Counts are exact, and one division is monotone and rounds once.
        low, high = self.totals
        rate = Interval(low.to(executed) / self.steps, high.to(executed) / self.steps)
        return Mean(rate, 2 * arithmetic.unit * arithmetic.raised(rate.upper))

    @property
    @abstractmethod
    def totals(self) -> Interval:
        """Bounds ``[B, ...]`` of the spike counts over all steps."""

    @property
    @abstractmethod
    def undecided(self) -> Tensor:
        """``bool [T, B, ...]``: where `narrowed` may change anything."""

    @abstractmethod
    def narrowed(self, known: Interval) -> Layer:
        """The layer with other bounds ``[T, B, ...]`` of what drives its spikes.

        These are the membranes where it is bounded step by step, the cumulative currents in the count domain;
        infinite where nothing is known.
        """

    @abstractmethod
    def gap(self, t: int) -> Interval:
        """How far the lower and the upper bound of `narrowed` at step t are from deciding anything.

        ``[B, ...]`` each, relative to the width of the bounds: 0 decides at once, 1 would take all of it.
        """

    @abstractmethod
    def reaching(self, lines: Neuronwise, t: int, column: Tensor, sign: Tensor) -> Pulled:
        """What `narrowed` takes at step t (from 0), as forms of the currents into one neuron a row.

        Args:
            lines: the layer's relaxation.
            t: the step.
            column: the neuron of each row ``[S, B]``, counted flattened.
            sign: the factor of each row ``[S, B, 1]``: 1, or -1 for an upper bound.

        Returns:
            Coefficients ``[S, t + 1, B, 1]`` and constants.
        """


def framewise(
    operators: Operators, interval: Interval, arithmetic: Arithmetic, repeats: Tensor | None = None
) -> Interval:
    """`Arithmetic.chain` on ``[T, B, ...]``; ``repeats [T]`` counts the inputs that step t sums up."""
    shape = interval.lower.shape[:2]
    rows = None if repeats is None else repeats.repeat_interleave(shape[1])
    flat = Interval(interval.lower.flatten(0, 1), interval.upper.flatten(0, 1))
    low, high = arithmetic.chain(operators, flat, rows)
    return Interval(low.unflatten(0, shape), high.unflatten(0, shape))


def step_numbers(like: Tensor, steps: int) -> Tensor:
    """``[1, 2, ..., T]`` in the dtype and on the device of another tensor."""
    return torch.arange(1, steps + 1, dtype=like.dtype, device=like.device)


@final
@dataclass(frozen=True)
class Held(Source):
    """Values within bounds ``[B, ...]``, the same at all T steps: an image, and what is made of it."""

    values: Interval
    duration: int

    @property
    def steps(self) -> int:
        return self.duration

    def box(self) -> Interval:
        return Interval(self.values.lower[None], self.values.upper[None])

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        low, high = arithmetic.chain(operators, self.values)
        return Interval(low[None], high[None])

    def charge(self, operators: Operators, arithmetic: Arithmetic) -> HeldCurrent:
        # The executed current is one and the same number at each step, so its sum over t is t times it.
        return HeldCurrent(self.currents(operators, arithmetic), self.steps)


@dataclass(frozen=True)
class Independent(Source, ABC):
    """Values within bounds ``[T, B, ...]`` that are independent of each other."""

    interval: Interval

    @property
    @final
    def steps(self) -> int:
        return len(self.interval.lower)

    @final
    def box(self) -> Interval:
        return self.interval

    @final
    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return framewise(operators, self.interval, arithmetic)


@final
@dataclass(frozen=True)
class Spikes(Independent):
    """Spikes, which are whole numbers >= 0: their counts are exact, and their own magnitudes."""

    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Summed:
        low, high = self.interval
        counts = Interval(low.cumsum(0), high.cumsum(0))
        return Summed(framewise(operators, counts, arithmetic, step_numbers(low, len(low))))


@final
@dataclass(frozen=True)
class SteppedLayer(Layer):
    """A layer of neurons bounded step by step, from the currents that drive it."""

    currents_in: Interval
    dynamics: Dynamics
    within: Interval | None = None

    @property
    def driven_by(self) -> Interval:
        return self.currents_in

    @cached_property
    def scan(self) -> StepScan:
        """The bounds at every step."""
        return scan_steps(self.driven_by, self.dynamics, self.within)

    @property
    def membranes(self) -> Interval:
        return self.scan.membranes

    @property
    def spikes(self) -> Interval:
        return self.scan.spikes

    @property
    def steps(self) -> int:
        return len(self.scan.spikes.lower)

    @property
    def totals(self) -> Interval:
        return Interval(self.scan.spikes.lower.sum(0), self.scan.spikes.upper.sum(0))

    @property
    def undecided(self) -> Tensor:
        return self.scan.spikes.lower != self.scan.spikes.upper

    def narrowed(self, known: Interval) -> SteppedLayer:
        # Rounding the end points to the executed dtype is sound: see certsnn.bounds.interval.arithmetic.
        executed = self.driven_by.lower.dtype
        within = Interval(known.lower.to(executed), known.upper.to(executed))
        if self.within is not None:
            within = intersect(within, self.within)
        return SteppedLayer(self.currents_in, self.dynamics, within)

    def gap(self, t: int) -> Interval:
        low, high = self.membranes.lower[t], self.membranes.upper[t]
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        threshold = self.dynamics.threshold
        return Interval((threshold - low) / width, (high - threshold) / width)

    def reaching(self, lines: Neuronwise, t: int, column: Tensor, sign: Tensor) -> Pulled:
        # u_t = v_{t-1} + I_t, and v_{t-1} is relaxed at the steps before.
        if t == 0:
            initial = at_neuron(self.dynamics.initial, self.driven_by.lower.shape[2:], column)
            return Pulled(sign[:, None], (sign.reshape(-1, 1) * initial).reshape(column.shape))
        before = lines.until(t).carried_at(column, sign)
        return Pulled(torch.cat([before.currents, sign[:, None]], 1), before.constant)

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return Spikes(self.scan.spikes).currents(operators, arithmetic)

    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Summed:
        return Spikes(self.scan.spikes).charge(operators, arithmetic)


@final
@dataclass(frozen=True)
class CountedLayer(Layer):
    """A layer of charge-conserving neurons bounded in the count domain, from its cumulative currents.

    Single steps, where they are asked for, are bounded in both domains: ``source`` drives the layer through
    ``operators``.
    """

    charge_in: Charge
    dynamics: Dynamics
    source: Source
    operators: Operators
    arithmetic: Arithmetic

    @property
    def driven_by(self) -> Interval:
        return self.charge_in.sums

    @cached_property
    def scan(self) -> CountScan:
        """The bounds of the counts."""
        return scan_counts(self.charge_in, self.dynamics, self.arithmetic.unit)

    @cached_property
    def _steps(self) -> StepScan:
        executed = self.dynamics.threshold.dtype
        currents = executed_currents(self.source, self.operators, self.arithmetic, executed)
        known = membranes_of_counts(self.driven_by, self.scan, self.dynamics)
        within = Interval(known.lower.to(executed), known.upper.to(executed))
        membranes, spikes = scan_steps(currents, self.dynamics, within)
        return StepScan(membranes, intersect(spikes, steps_of_counts(self.scan.counts)))

    @property
    def membranes(self) -> Interval:
        return self._steps.membranes

    @property
    def spikes(self) -> Interval:
        return self._steps.spikes

    @property
    def undecided(self) -> Tensor:
        return self.scan.counts.lower != self.scan.counts.upper

    def narrowed(self, known: Interval) -> CountedLayer:
        return replace(self, charge_in=Summed(intersect(self.driven_by, known)))

    def gap(self, t: int) -> Interval:
        # A count may change anywhere within the bounds.
        nothing = torch.zeros_like(self.driven_by.lower[t])
        return Interval(nothing, nothing)

    def reaching(self, lines: Neuronwise, t: int, column: Tensor, sign: Tensor) -> Pulled:
        return Pulled(sign[:, None].expand(-1, t + 1, -1, -1), torch.zeros_like(sign.squeeze(2)))

    @property
    def steps(self) -> int:
        return len(self.scan.counts.lower)

    @property
    def totals(self) -> Interval:
        return Interval(self.scan.counts.lower[-1], self.scan.counts.upper[-1])

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return framewise(operators, self.spikes, arithmetic)

    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Summed:
        counts = self.scan.counts
        return Summed(framewise(operators, counts, arithmetic, step_numbers(counts.lower, self.steps)))


def layer_of(source: Source, operators: Operators, dynamics: Dynamics, arithmetic: Arithmetic) -> Layer:
    """Bounds of the neurons that a source drives through a chain of operators, in the neurons' domain."""
    if dynamics.lossless:
        charge = source.charge(operators, arithmetic)
        return CountedLayer(charge, dynamics, source, tuple(operators), arithmetic)
    executed = dynamics.threshold.dtype
    return SteppedLayer(executed_currents(source, operators, arithmetic, executed), dynamics)


def executed_currents(
    source: Source, operators: Operators, arithmetic: Arithmetic, executed: torch.dtype
) -> Interval:
    """Bounds ``[T, B, ...]`` of the currents in the dtype of the network."""
    # Rounding the end points to the executed dtype is sound: see certsnn.bounds.interval.arithmetic.
    low, high = source.currents(operators, arithmetic)
    return Interval(hold(low.to(executed), source.steps), hold(high.to(executed), source.steps))
