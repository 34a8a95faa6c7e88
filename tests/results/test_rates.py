"""Rates and their confidence intervals."""

from __future__ import annotations

import pytest

from certsnn.results.rates import Rate


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Clopper & Pearson: closed forms for none and all, (alpha/2)^(1/n); and the textbook's 5 of 20.
    [
        (0, 10, 0.0, 100 * (1 - 0.025 ** (1 / 10))),
        (10, 10, 100 * 0.025 ** (1 / 10), 100.0),
        (5, 20, 8.657, 49.105),
    ],
)
def test_intervals(count: int, total: int, low: float, high: float) -> None:
    assert Rate(count, total).interval == pytest.approx((low, high), abs=1e-3)
    assert Rate(count, total).percent == 100 * count / total


@pytest.mark.parametrize(("count", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_no_share(count: int, total: int) -> None:
    with pytest.raises(ValueError, match=r"no samples|is not a share"):
        Rate(count, total)
