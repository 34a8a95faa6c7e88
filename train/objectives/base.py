"""The interface of objectives, and the terms that several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from certsnn.batches import BatchStatistics
from certsnn.evaluation.verification import Summary
from certsnn.inputsets import InputSet, Threat
from certsnn.networks import SpikingNetwork
from certsnn.program import Program
from certsnn.train.schedules import Moment


class Samples(NamedTuple):
    """A batch as the threat takes it: x ``[B, ...]`` or ``[T, B, ...]``, classes y and positions ``[B]``."""

    x: Tensor
    y: Tensor
    positions: Tensor


class CleanPass(NamedTuple):
    """The clean pass of a batch, from which the terms of a certified loss are made.

    program: the network with the statistics of the pass.
    logits: ``[B, K]``.
    samples: the batch as the threat takes it.
    threat: at its present size.
    x0, input_set: the threat bound to the batch.
    batch: that the samples are all or a share of.
    """

    program: Program
    logits: Tensor
    samples: Samples
    threat: Threat
    x0: Tensor
    input_set: InputSet
    batch: BatchStatistics


class Terms(NamedTuple):
    """A loss to minimise, and figures to log (detached scalars)."""

    loss: Tensor
    figures: dict[str, Tensor]


class Objective(ABC):
    """Turns a batch into a loss."""

    @abstractmethod
    def terms(self, network: SpikingNetwork, samples: Samples, threat: Threat, moment: Moment) -> Terms:
        """The loss of one batch at this moment; runs the network in training mode."""

    @abstractmethod
    def settled(self, epochs: int) -> float:
        """The epoch from which the objective stays the same: best checkpoints count from here."""

    def score(self, found: Summary) -> tuple[float, float]:
        """The score of an epoch on validation, the lower the better: verified error, then clean error."""
        return found.verified_error, found.clean_error


def error_rate(logits: Tensor, y: Tensor) -> Tensor:
    """The share of wrong classes, detached."""
    return (logits.detach().argmax(1) != y).float().mean()


def mixed(clean: Tensor, robust: Tensor, kappa_end: float, share: float) -> Tensor:
    """``kappa * clean + (1 - kappa) * robust``; kappa falls from 1 to kappa_end as the ramp's share rises."""
    kappa = 1 - (1 - kappa_end) * share
    return kappa * clean + (1 - kappa) * robust
