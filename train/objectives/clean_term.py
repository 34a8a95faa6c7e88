"""The clean term of the certified loss: of the clean logits, or of an attack's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from certsnn.settings import check_count
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
    """Cross-entropy of the clean logits (Gowal et al., 2018, https://arxiv.org/abs/1810.12715)."""

    def __call__(self, clean: CleanPass) -> Tensor:
        return F.cross_entropy(clean.logits, clean.samples.y)


@final
@dataclass(frozen=True)
class AttackLoss(CleanTerm):
    """Cross-entropy of the inputs that an attack finds within the set.

    Source: De Palma et al., *Expressive Losses for Verified Robustness via Convex Combinations*, 2024
    (MTL-IBP), https://arxiv.org/abs/2305.13991.

    Args:
        iterations, step_size: of the attack, see `certsnn.train.objectives.adversarial.ascend`.
    """

    iterations: int = 4
    step_size: float = 0.25

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)

    def __call__(self, clean: CleanPass) -> Tensor:
        run, y = clean.program.run, clean.samples.y
        found = ascend(run, clean.x0, y, clean.input_set, self.iterations, self.step_size, clean.batch)
        return F.cross_entropy(run(found), y)
