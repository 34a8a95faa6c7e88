r"""Neurons driven by a current that is the same at every step: all their spikes are functions of one number.

With direct encoding the first layer's current I is constant over time, so what a neuron does in T steps is a
function of I alone, and a piecewise constant one: within a piece the spikes ``s_1 .. s_T`` are fixed. (Given
the spikes so far, the membrane is ``slope I + offset`` with a slope >= 0, and the threshold cuts the interval
of I in two.) A form ``sum a_t s_t`` is then bounded below by the convex envelope of its pieces over
``[l, h]``: exact in one dimension, where lines step by step would forget that all steps see the same I.

**Rounding.** The executed membrane is off by at most E, so each cut is moved by E to either side and the
pieces overlap: an executed train belongs to a piece whose interval holds its current. See
docs/theory/constant-current.md.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Interval
from certsnn.bounds.linear.alpha import Slack
from certsnn.bounds.linear.lines import Lines, Pulled
from certsnn.dynamics import Dynamics
from certsnn.kernels.choice import kernels
from certsnn.kernels.points import ABSENT, Points

MOST_PIECES = 64
"""With more pieces than this, lines step by step are taken."""
POINT = 1e-14
"""Pieces narrower than this, relative to the currents, are the rounding of a cut."""


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
    """All trains that currents in ``[least, most]`` can cause.

    None if there are too many of them, if neurons differ, or if the currents are not finite.

    ``unit`` is the unit roundoff of the executed network; 0 leaves rounding out.
    """
    differ = any(bool((number != number.flatten()[0]).any()) for number in dynamics.numbers())
    if differ or not math.isfinite(most - least):
        return None
    threshold, decay, initial, gain, offset = (float(number.flatten()[0]) for number in dynamics.numbers())
    size = max(abs(least), abs(most), UNDERFLOW)
    # A wider interval only adds trains, so widening is sound.
    least, most = least - 9 * POINT * size, most + 9 * POINT * size
    found: list[_Piece] = [(least, most, 0.0, initial, 0.0, ())]
    for _ in range(steps):
        cut: list[_Piece] = []
        for low, high, slope, constant, error, spikes in found:
            # decay and gain are >= 0, so the slope is at least 1, and dividing by it keeps inequalities.
            slope += 1
            reach = slope * size + abs(constant)
            # Additions and products round relative to results, which in either order of a step are u but for
            # a reset; float64 errors are covered by the 4.
            error += (4 * unit * reach + 4 * UNDERFLOW) if unit else 0.0
            # Silent: slope I + constant - error <= u < threshold. Firing: slope I + constant + error >= u >=
            # threshold. The two pieces overlap by what the error leaves open, so no train is lost.
            end = (threshold + error - constant) / slope
            begin = (threshold - error - constant) / slope
            if low <= end:
                kept = (decay * slope, decay * constant, decay * error + 4 * unit * decay * reach)
                cut.append((low, min(high, end), *kept, (*spikes, 0)))
            if high >= begin:
                reset = 4 * unit * (gain * reach + abs(offset))
                kept = (gain * slope, gain * constant + offset, gain * error + reset)
                cut.append((max(low, begin), high, *kept, (*spikes, 1)))
        # At a cut the neuron fires, and right of it too: without rounding no piece is a single point.
        found = [piece for piece in cut if unit or piece[1] - piece[0] > POINT * size]
        if len(found) > MOST_PIECES:
            return None
    columns = list(zip(*found, strict=True))
    ends = torch.tensor([columns[0], columns[1]], dtype=torch.float64)
    return Pieces(ends[0], ends[1], torch.tensor(columns[5], dtype=torch.float64))


@dataclass(frozen=True)
class Held(Lines):
    r"""Lines below ``sum a_t s_t`` as a function of a constant current.

    Of a piecewise constant function only the ends of the pieces matter (`Points`). The pieces' spikes are
    ``trains [M, T]``; ``spread`` is how far the end of a piece may be from where it stands.
    """

    trains: Sequence[Sequence[int]]
    points: Points
    spread: float

    @abstractmethod
    def line(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts ``[S, B, ...]`` of lines below all points."""

    @final
    def pull(self, a: Tensor) -> Pulled:
        k, least = self.line(a.contiguous())
        # An end that stands up to `spread` elsewhere moves the line there by at most |k| spread.
        if self.spread:
            least = least - self.spread * k.abs()
        return Pulled(k[:, None], least.flatten(2).sum(2))

    @final
    def until(self, steps: int) -> Held:
        return self


@final
@dataclass(frozen=True)
class HeldMidpoint(Held):
    """The segment of the envelope over the midpoint."""

    def line(self, a: Tensor) -> tuple[Tensor, Tensor]:
        chosen = kernels([a, self.points.at, self.points.absent], ())
        return chosen.held_line(a, self.trains, self.points)

    def chosen(self, slack: Slack) -> HeldChosen:
        """The same with slopes of one's choice."""
        return HeldChosen(self.trains, self.points, self.spread, slack)


@final
@dataclass(frozen=True)
class HeldChosen(Held):
    """From the slope of the first segment over that at the midpoint (mix = 1/2) to the last, times share."""

    slack: Slack

    def line(self, a: Tensor) -> tuple[Tensor, Tensor]:
        points, share, mix = self.points, self.slack.share[0], self.slack.mix[0]
        trains = a.new_tensor(self.trains)[:, : a.shape[1]]
        values = trains @ a.movedim(1, 0).flatten(1)
        heights = points.heights(values.view(len(trains), len(a), *a.shape[2:]))
        middle = points.middle(heights)
        low, high = points.at[0], points.at[-1]
        first = points.least_slope(heights, points.at - low)
        last = -points.least_slope(heights, high - points.at)
        left, right = (2 * mix).clamp_max(1), (2 * mix - 1).clamp_min(0)
        k = share * (first + left * (middle - first) + right * (last - middle))
        return k, points.intercept(heights, k)


def held(currents: Interval, cut: Pieces, dynamics: Dynamics) -> HeldMidpoint:
    """Lines for bounds ``[B, ...]`` of the currents."""
    low, high = currents
    inner = (cut.upper[:-1] + cut.lower[1:]) / 2
    apart = (cut.upper[:-1] - cut.lower[1:]).abs()
    # Enlarged by more than what rounding makes of the points themselves.
    spread = float(apart.max()) / 2 * (1 + 2.0**-20) if len(inner) else 0.0
    shape = (-1, *[1] * (low.ndim + 1))
    ends = torch.cat([low[None, None], inner.to(low).view(shape).expand(-1, 1, *low.shape), high[None, None]])
    # No current lies outside [low, high], so ends beyond it are moved to it.
    at = torch.minimum(torch.maximum(ends, low), high)
    begin, end = (part.to(low).view(shape) for part in (cut.lower, cut.upper))
    # A piece that begins above all currents, or ends below them, is reached by none of them.
    absent = (begin > high + 2 * spread) | (end < low - 2 * spread)
    least = float(dynamics.threshold.max()) * math.sqrt(torch.finfo(low.dtype).eps)
    return HeldMidpoint(cut.spikes.int().tolist(), Points(at, ABSENT * absent.to(low), least), spread)
