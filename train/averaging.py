r"""Averages of the weights over training, which are often better than the last weights.

The averages are what is validated, kept as the best, and saved as the model; training itself goes on with
the weights of its own. Sources: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better
Generalization*, 2018 (SWA), https://arxiv.org/abs/1803.05407; Polyak and Juditsky, *Acceleration of
Stochastic Approximation by Averaging*, 1992, https://doi.org/10.1137/0330046.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.settings import check_share
from certsnn.train.schedules import Moment


class Averaging(ABC):
    """The share of each step's weights in the average."""

    @abstractmethod
    def pace(self, moment: Moment, updates: int) -> float:
        """The part of the way that the average moves towards the present weights, in [0, 1].

        Args:
            moment: where training stands.
            updates: the number of steps that the average has seen.
        """


@final
@dataclass(frozen=True)
class Latest(Averaging):
    """No average: the weights as they are."""

    def pace(self, moment: Moment, updates: int) -> float:
        return 1.0


@final
@dataclass(frozen=True)
class EMA(Averaging):
    """An exponential moving average, ``average += (1 - decay) (weights - average)`` at every step.

    The first steps count more, ``1 - decay <= 9 / (10 + updates)``, so that the average forgets the
    weights that training began with.

    Args:
        decay: in [0, 1).
    """

    decay: float = 0.998

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def pace(self, moment: Moment, updates: int) -> float:
        return max(1 - self.decay, 9 / (10 + updates))


@final
@dataclass(frozen=True)
class SWA(Averaging):
    """The mean of all steps' weights from a share of the training on; before it, the weights as they are.

    Args:
        start: the share, in [0, 1].
    """

    start: float = 0.75

    def __post_init__(self) -> None:
        check_share("start", self.start)

    def pace(self, moment: Moment, updates: int) -> float:
        return 1.0 if moment.epoch < self.start * moment.epochs else 1 / (updates + 1)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, which later steps leave alone."""
    return {name: value.detach().clone() for name, value in tensors.items()}


@final
class Average:
    """A running average of a network's state: ``tensors`` by name, and the number of ``updates`` seen.

    Whole numbers (batch norm's counters) are copied.
    """

    def __init__(self, tensors: Mapping[str, Tensor], updates: int = 0) -> None:
        self.tensors = copied(tensors)
        self.updates = updates

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor], averaging: Averaging, moment: Moment) -> None:
        """Take in the state after a step."""
        pace = averaging.pace(moment, self.updates)
        # An average that has been put back to the present weights has seen one step.
        self.updates = 1 if pace == 1 else self.updates + 1
        for name, value in tensors.items():
            if value.is_floating_point() and pace < 1:
                self.tensors[name].lerp_(value, pace)
            else:
                self.tensors[name].copy_(value)
