"""Schedules: the share of a ramp that is done at a moment of training, and the learning rate there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

RAMPED = 0.6
"""The share of training after which, by default, the threat has grown to its size and the rate falls."""


class Moment(NamedTuple):
    """A moment of training: the (fractional) epoch, and the number of epochs in all."""

    epoch: float
    epochs: int


@final
@dataclass(frozen=True)
class Ramp:
    """A smooth rise from 0 to 1: 0 until the epoch ``start``, then ``3 p^2 - 2 p^3`` over ``length`` epochs.

    Its slope is zero at both ends, so that neither the first perturbation nor the last comes as a jolt.
    Without a length it ends when `RAMPED` of the training is done.
    """

    start: float = 1.0
    length: float | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.length is not None and self.length < 0):
            raise ValueError(f"a ramp needs start >= 0 and length >= 0, got {self}")

    def end(self, epochs: int) -> float:
        """The epoch at which it has reached 1, in a training of ``epochs`` epochs."""
        return max(self.start, RAMPED * epochs) if self.length is None else self.start + self.length

    def __call__(self, moment: Moment) -> float:
        """The share of the rise done, in [0, 1]."""
        length = self.end(moment.epochs) - self.start
        if length == 0:
            return float(moment.epoch >= self.start)
        position = min(1.0, max(0.0, (moment.epoch - self.start) / length))
        return position * position * (3 - 2 * position)


@final
@dataclass(frozen=True)
class LearningRate:
    """``peak`` until the epoch ``hold``, then a cosine down to ``floor * peak`` at the last epoch.

    Without ``hold`` it falls once `RAMPED` of the training is done. The rate first rises to the peak in
    ``warmup`` epochs, in a straight line from 0.
    """

    peak: float = 2e-3
    hold: float | None = None
    floor: float = 0.02
    warmup: float = 0.0

    def __post_init__(self) -> None:
        hold = 0 if self.hold is None else self.hold
        if not self.peak > 0 or hold < 0 or self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"a rate needs peak > 0, hold and warmup >= 0, floor in [0, 1], got {self}")

    def __call__(self, moment: Moment) -> float:
        """The rate at this moment."""
        epoch, epochs = moment
        hold = RAMPED * epochs if self.hold is None else self.hold
        if epoch < self.warmup:
            return self.peak * epoch / self.warmup
        if epoch <= hold or epochs <= hold:
            return self.peak
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - hold) / (epochs - hold))))
        return self.peak * (self.floor + (1 - self.floor) * cosine)
