"""The clean term of the certified loss: of the clean logits, or of an attack's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from certsnn.train.objectives.adversarial import ascend
from certsnn.train.objectives.base import CleanPass


class CleanTerm(ABC):
    """A loss that keeps accuracy while bounds are trained."""

    @abstractmethod
    def __call__(self, clean: CleanPass) -> Tensor:
        """The mean loss of a batch."""


@final
@dataclass(frozen=True)
class CleanLoss(CleanTerm):
    """Cross-entropy of the clean logits (Gowal et al. 2018)."""

    def __call__(self, clean: CleanPass) -> Tensor:
        return F.cross_entropy(clean.logits, clean.samples.y)


@final
@dataclass(frozen=True)
class AttackLoss(CleanTerm):
    """Cross-entropy of an attack's inputs within the set (De Palma et al. 2024, MTL-IBP).

    Args:
        iterations, step_size: of the attack, see `certsnn.train.objectives.adversarial.ascend`.
    """

    iterations: int = 4
    step_size: float = 0.25

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def __call__(self, clean: CleanPass) -> Tensor:
        run, y = clean.program.run, clean.samples.y
        found = ascend(run, clean.x0, y, clean.input_set, self.iterations, self.step_size, clean.batch)
        return F.cross_entropy(run(found), y)
