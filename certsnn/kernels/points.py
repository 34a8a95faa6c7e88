"""Lines below step functions of one number, each given by the ends of its pieces: in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import final

import torch
from torch import Tensor

ABSENT = 1e30
"""The height given to a piece that is not reached: above any other, so it limits no line."""


@final
@dataclass(frozen=True)
class Points:
    r"""The ends of the M pieces of each neuron's function, within its bounds and in order.

    They stand at ``at [M + 1, 1, B, ...]``; ``absent [M, 1, B, ...]`` is `ABSENT` for pieces outside the
    bounds, else 0. Over a width below ``least`` quotients are noise. The slope of the envelope's segment over
    the midpoint is

    .. math:: \max_{i \le mid} \; \min_{j > mid} \; \frac{H_j - H_i}{x_j - x_i}

    for the tangent from a point on the left to those on the right is steepest from the envelope's own corner.
    """

    at: Tensor
    absent: Tensor
    least: float

    def heights(self, values: Tensor) -> Tensor:
        """Of the points, ``[M + 1, S, B, ...]``: the lesser of the values ``[M, S, B, ...]`` beside each."""
        # A line takes its greatest value over a piece at one of its ends, and the function is constant there:
        # below the lesser of both sides at every end, it is below the function everywhere.
        values = values + self.absent
        return torch.cat([values[:1], torch.minimum(values[:-1], values[1:]), values[-1:]])

    def middle(self, heights: Tensor) -> Tensor:
        """The slope ``[S, B, ...]`` of the envelope's segment over the midpoint."""
        left, right = self._sides
        on_left, on_right = heights[: len(left)] + left, heights[-len(right) :] + right
        tangents = (
            ((on_right - point) * scale).amin(0) for point, scale in zip(on_left, self._scales, strict=True)
        )
        # Any slope is sound, as the least intercept is taken; over a width near 0 it is set to 0.
        k: Tensor = reduce(torch.maximum, tangents) * (self.at[-1] - self.at[0] >= self.least)
        return k

    def least_slope(self, heights: Tensor, away: Tensor) -> Tensor:
        """The least slope to all points from those at an end of the bounds, where ``away`` is 0."""
        here = away <= 0
        height = (heights + ABSENT * ~here).amin(0)
        far = away >= self.least
        slopes = (heights + ABSENT * ~far - height) * self._per_width(away.new_zeros(()), away)
        return slopes.amin(0) * far.any(0)

    def intercept(self, heights: Tensor, k: Tensor) -> Tensor:
        """The greatest that leaves a line with slope k below all points, ``[S, B, ...]``."""
        return (heights - k * self.at).amin(0)

    def _per_width(self, left: Tensor, right: Tensor) -> Tensor:
        """One over the distance; 1 where it is below `least`."""
        width = right - left
        return 1 / torch.where(width >= self.least, width, torch.ones_like(width))

    @cached_property
    def _sides(self) -> tuple[Tensor, Tensor]:
        """`ABSENT` for points not left (right) of the midpoint, of the first (last) ones that may be."""
        on_left = self.at <= (self.at[0] + self.at[-1]) / 2
        on_left[0], on_left[-1] = True, False
        rows = on_left.flatten(1)
        left, right = (int(rows.any(1).sum()), int((~rows).any(1).sum())) if rows.numel() else (1, 1)
        return ABSENT * ~on_left[:left], ABSENT * on_left[-right:]

    @cached_property
    def _scales(self) -> list[Tensor]:
        """One over the distances from each point on the left to those on the right."""
        left, right = self._sides
        return [self._per_width(point, self.at[-len(right) :]) for point in self.at[: len(left)]]


def summed(a: Tensor, trains: Sequence[Sequence[int]]) -> Tensor:
    """The values ``[M, S, B, ...]`` of forms ``a [S, T, B, ...]`` on pieces with these spikes.

    Terms are added one by one, in the order of the steps: one that compiled loops can follow.
    """
    values = a.new_zeros(len(trains), len(a), *a.shape[2:])
    for m, train in enumerate(trains):
        for t in range(a.shape[1]):
            if train[t]:
                values[m] += a[:, t]
    return values
