"""What drives a layer: images, spikes known step by step, spike counts, or spikes under a flip budget.

A source bounds the currents that a chain of affine operators makes of it, in the domain that the next
neurons ask for: at each step, or summed over the steps so far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.arithmetic import Arithmetic, Interval
from certsnn.bounds.neurons import (
    CountScan,
    StepScan,
    membranes_of_counts,
    scan_counts,
    scan_steps,
    steps_of_counts,
)
from certsnn.networks import hold
from certsnn.neurons import Dynamics

Operators = Sequence[Affine]


class Source(ABC):
    """Bounds of what enters a chain of affine operators."""

    @abstractmethod
    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        """Bounds ``[T, B, ...]`` of the chain's output at each step, in the dtype of the products."""

    @abstractmethod
    def cumulative(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        """Bounds ``[T, B, ...]`` of the chain's outputs summed over steps 1..t."""


class Layer(Source):
    """Bounds of a layer of neurons; what the next layer is driven by."""

    @property
    @abstractmethod
    def membranes(self) -> Interval:
        """Bounds ``[T, B, ...]`` of the membranes before firing."""

    @property
    @abstractmethod
    def spikes(self) -> Interval:
        """Bounds ``[T, B, ...]`` of the spikes."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of steps T."""

    @property
    @abstractmethod
    def totals(self) -> Interval:
        """Bounds ``[B, ...]`` of the spike counts over all steps."""


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
class Images(Source):
    """Direct encoding: images within a box ``[B, ...]``, the same at all T steps."""

    box: Interval
    steps: int

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        low, high = arithmetic.chain(operators, self.box)
        return Interval(hold(low[None], self.steps), hold(high[None], self.steps))

    def cumulative(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        # The executed current is one and the same number at each step, so its sum over t is t times it.
        low, high = arithmetic.chain(operators, self.box)
        times = step_numbers(low, self.steps).view(-1, *[1] * low.ndim)
        return Interval(times * low, times * high)


@final
@dataclass(frozen=True)
class Spikes(Source):
    """Spikes within bounds ``[T, B, ...]`` that are independent of each other."""

    interval: Interval

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return framewise(operators, self.interval, arithmetic)

    def cumulative(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        low, high = self.interval
        counts = Interval(low.cumsum(0), high.cumsum(0))
        return framewise(operators, counts, arithmetic, step_numbers(low, len(low)))


@final
@dataclass(frozen=True)
class SteppedLayer(Layer):
    """A layer of neurons bounded step by step."""

    scan: StepScan

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

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return Spikes(self.scan.spikes).currents(operators, arithmetic)

    def cumulative(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return Spikes(self.scan.spikes).cumulative(operators, arithmetic)


@final
@dataclass(frozen=True)
class CountedLayer(Layer):
    """A layer of charge-conserving neurons bounded in the count domain."""

    driven_by: Interval
    scan: CountScan
    dynamics: Dynamics

    @property
    def membranes(self) -> Interval:
        return membranes_of_counts(self.driven_by, self.scan, self.dynamics)

    @property
    def spikes(self) -> Interval:
        return steps_of_counts(self.scan.counts)

    @property
    def steps(self) -> int:
        return len(self.scan.counts.lower)

    @property
    def totals(self) -> Interval:
        return Interval(self.scan.counts.lower[-1], self.scan.counts.upper[-1])

    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return framewise(operators, self.spikes, arithmetic)

    def cumulative(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        counts = self.scan.counts
        return framewise(operators, counts, arithmetic, step_numbers(counts.lower, self.steps))


def layer_of(source: Source, operators: Operators, dynamics: Dynamics, arithmetic: Arithmetic) -> Layer:
    """Bounds of the neurons that a source drives through a chain of operators, in the neurons' domain."""
    if dynamics.lossless:
        cumulative = source.cumulative(operators, arithmetic)
        return CountedLayer(cumulative, scan_counts(cumulative, dynamics, arithmetic.unit), dynamics)
    low, high = source.currents(operators, arithmetic)
    executed = dynamics.threshold.dtype
    # Rounding the end points to the executed dtype is sound: see certsnn.bounds.arithmetic.
    return SteppedLayer(scan_steps(Interval(low.to(executed), high.to(executed)), dynamics))
