r"""Neurons driven by a current that is the same at every step: all their spikes are functions of one number.

With direct encoding the first layer's current I is constant over time, so what a neuron does in T steps is a
function of I alone, and a piecewise constant one: within a piece the spikes ``s_1 .. s_T`` are fixed. (Given
the spikes so far, the membrane is ``slope I + offset`` with a slope >= 0, and the threshold cuts the interval
of I in two.) A form ``sum a_t s_t`` is then bounded below by the convex envelope of its pieces over
``[l, h]``: exact in one dimension, where lines step by step would forget that all steps see the same I.

**Rounding.** The executed membrane is off by at most E, so each cut is moved by E to either side and the
pieces overlap: an executed train belongs to a piece whose interval holds its current.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import UNDERFLOW, Interval
from certsnn.bounds.relaxation import Lines, Pulled, Slack
from certsnn.neurons import Dynamics

MOST_PIECES = 128
"""With more pieces than this, lines step by step are taken."""
POINT = 1e-14
"""What is narrower than this, relative to the currents, is no piece but the rounding of a cut."""
HULL_ROUNDS = 8
"""At most so many points are put into the envelope one after the other."""
TOLERANCE = 1e-5
"""A point counts as beneath a line from this share of the heights on; any slope is sound."""


@final
@dataclass(frozen=True)
class Pieces:
    """Intervals of the current ``lower, upper [M]`` (they may overlap) and the spikes there, ``[M, T]``."""

    lower: Tensor
    upper: Tensor
    spikes: Tensor


_Piece = tuple[float, float, float, float, float, tuple[int, ...]]
"""Lower and upper end, slope, constant and error of ``v = slope I + constant``, and the spikes so far."""


def pieces(least: float, most: float, steps: int, dynamics: Dynamics, unit: float) -> Pieces | None:
    """All trains that currents in ``[least, most]`` can cause; None if there are too many, or neurons differ.

    ``unit`` is the unit roundoff of the executed network; 0 leaves rounding out.
    """
    if any(value.numel() != 1 for value in dynamics[:5]):
        return None
    threshold, decay, initial, gain, offset = (float(value.detach()) for value in dynamics[:5])
    size = max(abs(least), abs(most), UNDERFLOW)
    least, most = least - 9 * POINT * size, most + 9 * POINT * size
    found: list[_Piece] = [(least, most, 0.0, initial, 0.0, ())]
    for _ in range(steps):
        cut: list[_Piece] = []
        for low, high, slope, constant, error, spikes in found:
            slope += 1
            reach = slope * size + abs(constant)
            # Additions and products round relative to results; float64 errors are covered by the 4.
            error += (4 * unit * reach + 4 * UNDERFLOW) if unit else 0.0
            end = (threshold + error - constant) / slope
            begin = (threshold - error - constant) / slope
            if low <= end:
                kept = (decay * slope, decay * constant, decay * error + 4 * unit * decay * reach)
                cut.append((low, min(high, end), *kept, (*spikes, 0)))
            if high >= begin:
                reset = 4 * unit * (gain * reach + abs(offset))
                kept = (gain * slope, gain * constant + offset, gain * error + reset)
                cut.append((max(low, begin), high, *kept, (*spikes, 1)))
        # At a cut the neuron fires, as it does right of it: without rounding no piece is a single point.
        found = [piece for piece in cut if unit or piece[1] - piece[0] > POINT * size]
        if len(found) > MOST_PIECES:
            return None
    columns = list(zip(*found, strict=True))
    ends = torch.tensor([columns[0], columns[1]], dtype=torch.float64)
    return Pieces(ends[0], ends[1], torch.tensor(columns[5], dtype=torch.float64))


@final
@dataclass(frozen=True)
class Held(Lines):
    r"""Lines below ``sum a_t s_t`` as a function of a constant current.

    ``begin, end [M, 1, B, ...]``: the pieces within each neuron's bounds (empty where begin > end), whose
    spikes are ``spikes [M, T]``. With the slopes of the envelope's first and last segment and of the one over
    the midpoint, the slope runs from ``first`` over ``middle`` (at mix = 1/2) to ``last``, times ``share``;
    without a `Slack` it is ``middle``.
    """

    spikes: Tensor
    begin: Tensor
    end: Tensor
    low: Tensor
    high: Tensor
    least: float
    slack: Slack | None

    def pull(self, a: Tensor | None, carried: Tensor) -> Pulled:
        if a is None:
            raise ValueError("there is nothing to refine about a constant current")
        values = torch.einsum("stb...,mt->msb...", a, self.spikes[:, : a.shape[1]])
        values = values.masked_fill(self.begin > self.end, torch.inf)
        k = self._middle(values) if self.slack is None else self._slope(values, self.slack)
        least = (values - self._most(k)).amin(0)
        return Pulled(k[:, None], least.flatten(2).sum(2))

    def _most(self, k: Tensor) -> Tensor:
        """The greatest ``k I`` within each piece."""
        return torch.maximum(k * self.begin, k * self.end)

    def _slope(self, values: Tensor, slack: Slack) -> Tensor:
        share, mix = slack.share[0], slack.mix[0]
        middle = self._middle(values)
        at_low = values.masked_fill(self.begin > self.low, torch.inf).amin(0)
        at_high = values.masked_fill(self.end < self.high, torch.inf).amin(0)
        first = self._least_slope(values - at_low, self.begin - self.low, self.end - self.low)
        last = -self._least_slope(values - at_high, self.high - self.end, self.high - self.begin)
        left, right = (2 * mix).clamp_max(1), (2 * mix - 1).clamp_min(0)
        return share * (first + left * (middle - first) + right * (last - middle))

    def _least_slope(self, rise: Tensor, near: Tensor, far: Tensor) -> Tensor:
        """The least slope from an end point to pieces that rise by so much, from near to far away."""
        slopes = torch.minimum(rise / near.clamp_min(self.least), rise / far.clamp_min(self.least))
        return slopes.masked_fill(far < self.least, torch.inf).amin(0).nan_to_num(0.0, 0.0, 0.0)

    def _middle(self, values: Tensor) -> Tensor:
        """The slope of the envelope's segment over the midpoint.

        Beginning with the chord, the lowest point below the line replaces the end on its side.
        """
        centre = (self.low + self.high) / 2
        left, right = self.low.expand(values.shape[1:]), self.high.expand(values.shape[1:])
        left_height = values.masked_fill(self.begin > self.low, torch.inf).amin(0)
        right_height = values.masked_fill(self.end < self.high, torch.inf).amin(0)
        for _ in range(HULL_ROUNDS):
            k = (right_height - left_height) / (right - left).clamp_min(self.least)
            at = (values - self._most(k)).argmin(0, keepdim=True)
            height = values.gather(0, at)[0]
            ends = torch.where(k > 0, self.end, self.begin).expand_as(values)
            point = ends.gather(0, at)[0]
            drop = left_height - k * left - (height - k * point)
            size = left_height.abs() + right_height.abs() + height.abs()
            beneath = (drop > TOLERANCE * size) & (right - left > self.least)
            if not bool(beneath.any()):
                break
            to_left, to_right = beneath & (point <= centre), beneath & (point > centre)
            left, left_height = torch.where(to_left, point, left), torch.where(to_left, height, left_height)
            right = torch.where(to_right, point, right)
            right_height = torch.where(to_right, height, right_height)
        return (right_height - left_height) / (right - left).clamp_min(self.least)

    def until(self, steps: int) -> Held:
        return self


def held(currents: Interval, cut: Pieces, dynamics: Dynamics, slack: Slack | None = None) -> Held:
    """`Held` for bounds ``[B, ...]`` of the currents."""
    low, high = currents
    shape = (-1, *[1] * (low.ndim + 1))
    begin = torch.maximum(cut.lower.to(low).view(shape), low)
    end = torch.minimum(cut.upper.to(low).view(shape), high)
    least = float(dynamics.threshold) * math.sqrt(torch.finfo(low.dtype).eps)
    return Held(cut.spikes.to(low), begin, end, low, high, least, slack)
