"""Losses that a gradient attack ascends: how badly logits fit a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor


class Loss(ABC):
    """How badly logits ``[B, K]`` fit the classes ``[B]``: ``[B]``, the larger the worse.

    An untargeted attack ascends the loss of the label, a targeted one descends that of its target.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The losses ``[B]``, differentiable in the logits."""


@final
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """``-log softmax(logits)[y]``."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")


@final
@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """``mean_k (logits[k] - 1[k = y])^2``; fits firing rates, which lie in [0, 1]."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits - F.one_hot(y, logits.shape[1])).square().mean(1)


@final
@dataclass(frozen=True)
class Margin(Loss):
    """``max_{k != y} logits[k] - logits[y]``: its gradient does not fade with confidence.

    Source: Carlini and Wagner, *Towards Evaluating the Robustness of Neural Networks*, 2017,
    https://arxiv.org/abs/1608.04644, without the clipping.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return rival(logits, y) - logits.gather(1, y[:, None])[:, 0]


def rival(logits: Tensor, y: Tensor) -> Tensor:
    """``max_{k != y} logits[k]``, ``[B]``; -inf where there is no other class."""
    own = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1)
