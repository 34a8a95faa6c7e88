"""Flips of spikes as changes of the network's input: of the spikes themselves, or of an image that is held.

G2S and RSF flip spikes. An image enters a network as the same current at every step; it is attacked as the
rate of a spike train: encoded anew with fresh Bernoulli noise, flipped, and moved by the mean of the flips
over time (Liang et al., *Exploring Adversarial Attack in Spiking Neural Networks with Spike-Compatible
Gradient*, 2021, https://arxiv.org/abs/2001.01587, section IV).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from certsnn.attacks.gradients import by_step
from certsnn.attacks.losses import Loss
from certsnn.attacks.oracle import Oracle
from certsnn.encoding import bernoulli
from certsnn.inputsets.base import Domain


class SpikeView(ABC):
    """An oracle's input seen as spike trains ``[T, B, ...]``."""

    @abstractmethod
    def spikes(self, oracle: Oracle, x: Tensor, seed: int, stream: int) -> Tensor:
        """The trains of x, 0/1."""

    @abstractmethod
    def gradient(self, oracle: Oracle, x: Tensor, loss: Loss) -> Tensor:
        """The gradient of the objective at x towards the input of each step, ``[T, B, ...]``."""

    @abstractmethod
    def moved(self, x: Tensor, change: Tensor) -> Tensor:
        """x after a change ``[T, B, ...]`` (-1, 0, 1) of its trains."""

    @abstractmethod
    def score(self, weight: Tensor) -> Tensor:
        """A weight ``[T, B, ...]`` of each spike as one of each entry of x."""


@final
class SpikeTrains(SpikeView):
    """The input is the trains."""

    def spikes(self, oracle: Oracle, x: Tensor, seed: int, stream: int) -> Tensor:
        return x

    def gradient(self, oracle: Oracle, x: Tensor, loss: Loss) -> Tensor:
        return oracle.gradient(x, loss)

    def moved(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change

    def score(self, weight: Tensor) -> Tensor:
        return weight


@final
class HeldImage(SpikeView):
    """The input is an image, the rate of the trains."""

    def spikes(self, oracle: Oracle, x: Tensor, seed: int, stream: int) -> Tensor:
        _, steps = oracle.program.input.frames(x, None)
        return bernoulli(x, oracle.uniform(steps, seed, stream))

    def gradient(self, oracle: Oracle, x: Tensor, loss: Loss) -> Tensor:
        frames, steps = oracle.program.input.frames(x, None)
        return oracle.gradient(frames.expand(steps, *x.shape), loss, by_step(oracle.view))

    def moved(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change.mean(0)

    def score(self, weight: Tensor) -> Tensor:
        return weight.sum(0)


SPIKE_VIEWS: dict[Domain, SpikeView] = {"image": HeldImage(), "spikes": SpikeTrains()}
"""By the domain of the input set."""


def ternary(change: Tensor, spikes: Tensor) -> Tensor:
    """The changes -1, 0 or 1 of spikes that leave them 0 or 1; the others dropped."""
    moved = spikes + change
    return torch.where((moved == 0) | (moved == 1), change, 0)


def over_steps(values: Tensor, spikes: Tensor) -> Tensor:
    """Values ``[B]`` of samples, shaped to broadcast against spikes ``[T, B, ...]``."""
    return values.view(1, -1, *[1] * (spikes.dim() - 2))
