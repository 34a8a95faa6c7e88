"""Schedules: how far a ramp has come at a point in training, measured in epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Ramp:
    """A smooth rise from 0 to 1: flat until ``start``, then ``3 p^2 - 2 p^3`` over ``length`` epochs.

    Its slope is zero at both ends, so that neither the first perturbation nor the last comes as a jolt.
    """

    start: float = 1.0
    length: float = 10.0

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 0:
            raise ValueError(f"a ramp needs start >= 0 and length >= 0, got {self}")

    @property
    def end(self) -> float:
        """The epoch at which it has reached 1."""
        return self.start + self.length

    def __call__(self, epoch: float) -> float:
        """The share of the rise done at this (fractional) epoch, in [0, 1]."""
        if self.length == 0:
            return float(epoch >= self.start)
        position = min(1.0, max(0.0, (epoch - self.start) / self.length))
        return position * position * (3 - 2 * position)


@final
@dataclass(frozen=True)
class LearningRate:
    """``peak`` until the epoch ``hold``, then a cosine down to ``floor * peak`` at the last epoch.

    With ``warmup``, the rate rises to the peak in so many epochs first, in a straight line from 0.
    """

    peak: float = 1e-3
    hold: float = 0.0
    floor: float = 0.02
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not self.peak > 0 or self.hold < 0 or self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"a rate needs peak > 0, hold and warmup >= 0, floor in [0, 1], got {self}")

    def __call__(self, epoch: float, epochs: int) -> float:
        """The rate at this (fractional) epoch of ``epochs``."""
        if epoch < self.warmup:
            return self.peak * epoch / self.warmup
        if epoch <= self.hold or epochs <= self.hold:
            return self.peak
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - self.hold) / (epochs - self.hold))))
        return self.peak * (self.floor + (1 - self.floor) * cosine)
