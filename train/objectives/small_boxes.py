"""The region that the bounds of certified training cover: the whole threat, or small boxes inside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.inputsets import InputSet
from certsnn.settings import check_count
from certsnn.train.objectives.adversarial import ascend
from certsnn.train.objectives.base import CleanPass


class Region(ABC):
    """Chooses the region that is bounded."""

    @abstractmethod
    def __call__(self, clean: CleanPass) -> tuple[Tensor, InputSet]:
        """The centre, shaped as x0, and the set that are bounded."""


@final
@dataclass(frozen=True)
class Whole(Region):
    """The whole set: the bound that is verified."""

    def __call__(self, clean: CleanPass) -> tuple[Tensor, InputSet]:
        return clean.x0, clean.input_set


@final
@dataclass(frozen=True)
class SmallBoxes(Region):
    """The threat at ``share`` of its size, around a point that an attack finds within the rest of it.

    Bounds of a smaller set regularise less, and training on them keeps more accuracy; what is verified
    afterwards is still the whole threat. For threats that bind to x itself (`LinfBall`, `SpikeFlips`), whose
    sizes add up. Source: Mueller et al., *Certified Training: Small Boxes are All You Need*, 2023 (SABR),
    https://arxiv.org/abs/2210.04871.

    Args:
        share: of the threat's size, in (0, 1].
        iterations, step_size: of the attack, see `certsnn.train.objectives.adversarial.ascend`.
    """

    share: float = 0.4
    iterations: int = 4
    step_size: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")
        check_count("iterations", self.iterations)

    def __call__(self, clean: CleanPass) -> tuple[Tensor, InputSet]:
        threat, (_, y, positions) = clean.threat, clean.samples
        if not isinstance(threat, InputSet):
            raise TypeError(
                f"SmallBoxes needs a threat of images or flips themselves, not {threat.describe()}; use "
                "region: Whole"
            )
        _, around = threat.scaled(1 - self.share).bind(clean.x0, positions)
        run = clean.program.run
        centre = ascend(run, clean.x0, y, around, self.iterations, self.step_size, clean.batch)
        return threat.scaled(self.share).bind(centre, positions)
