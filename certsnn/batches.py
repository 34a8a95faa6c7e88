"""Quantities of a whole batch that are no sums over its samples' losses, such as batch norm's mean.

A process may hold only a share of the batch (`certsnn.processes`). Every process must then ask for the same
quantities in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor


class BatchStatistics(ABC):
    """Quantities of the whole batch, from those of the samples that are here."""

    @abstractmethod
    def mean(self, mean: Tensor) -> Tensor:
        """The mean over the whole batch, from the mean over the samples here; differentiable."""

    @abstractmethod
    def greatest(self, greatest: Tensor) -> Tensor:
        """The maximum over the whole batch, from that over the samples here; no gradients."""

    @abstractmethod
    def values(self, count: int) -> int:
        """The number of values in the whole batch, from that in the samples here."""


@final
class WholeBatch(BatchStatistics):
    """A batch whose samples are all here."""

    def mean(self, mean: Tensor) -> Tensor:
        return mean

    def greatest(self, greatest: Tensor) -> Tensor:
        return greatest

    def values(self, count: int) -> int:
        return count


WHOLE = WholeBatch()
