"""The loss that stands beside the certified one: of the clean logits, or of an attack's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from certsnn.batches import BatchStatistics
from certsnn.inputsets import InputSet
from certsnn.networks import Program
from certsnn.train.objectives.adversarial import ascend


class CleanTerm(ABC):
    """A loss that keeps accuracy while bounds are trained."""

    @abstractmethod
    def __call__(
        self,
        program: Program,
        logits: Tensor,
        x0: Tensor,
        y: Tensor,
        input_set: InputSet,
        batch: BatchStatistics,
    ) -> Tensor:
        """The mean loss of a batch.

        Args:
            program: the network with the statistics of its clean pass.
            logits: of the clean pass ``[B, K]``.
            x0, y: nominal inputs and classes.
            input_set: the set that is bounded.
            batch: that the samples are all or a share of.
        """


@final
@dataclass(frozen=True)
class CleanLoss(CleanTerm):
    """Cross-entropy of the clean logits (Gowal et al. 2018)."""

    def __call__(
        self,
        program: Program,
        logits: Tensor,
        x0: Tensor,
        y: Tensor,
        input_set: InputSet,
        batch: BatchStatistics,
    ) -> Tensor:
        return F.cross_entropy(logits, y)


@final
@dataclass(frozen=True)
class AttackLoss(CleanTerm):
    """Cross-entropy of what an attack finds within the set (De Palma et al. 2024, MTL-IBP).

    Args:
        iterations, step_size: of the attack, see `certsnn.train.objectives.adversarial.ascend`.
    """

    iterations: int = 4
    step_size: float = 0.25

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def __call__(
        self,
        program: Program,
        logits: Tensor,
        x0: Tensor,
        y: Tensor,
        input_set: InputSet,
        batch: BatchStatistics,
    ) -> Tensor:
        found = ascend(program.run, x0, y, input_set, self.iterations, self.step_size, batch)
        return F.cross_entropy(program.run(found), y)
