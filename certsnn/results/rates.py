"""Shares of samples, with confidence intervals for the population that the samples are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final


def percent(value: float) -> str:
    """An error in percent, as tables show it."""
    return f"{value:.2f} %"


@final
@dataclass(frozen=True)
class Rate:
    """``count`` of ``total`` samples; raises ValueError unless 0 <= count <= total and total >= 1."""

    count: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1:
            raise ValueError("there are no samples to take a share of")
        if not 0 <= self.count <= self.total:
            raise ValueError(f"{self.count} of {self.total} samples is not a share")

    @property
    def percent(self) -> float:
        """The share in percent."""
        return 100 * self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval (low, high) in percent, by Clopper and Pearson (1934).

        It holds for samples drawn at random from a population: it covers the population's share in at
        least 95% of draws. It says nothing about other seeds of the training.
        """
        from scipy.stats import binomtest  # here: a second to import

        found = binomtest(self.count, self.total).proportion_ci(0.95, method="exact")
        return 100 * float(found.low), 100 * float(found.high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        return {"count": self.count, "percent": self.percent, "interval": [low, high]}
