r"""Lines below what a neuron does at one step, as a function of its membrane alone.

A backward pass holds, at one neuron and step, a coefficient a on the spike and c on the potential carried
on. Both are functions of the same membrane u in ``[l, h]``:

.. math::
    f(u) = c\, decay\, u \quad (u < \theta), \qquad f(u) = a + c\, (gain\, u + offset) \quad (u \ge \theta)

For *any* slope k the line ``k u + min (f(v) - k v)`` lies below f, the minimum over the end points of the two
pieces: l and the threshold from below, the threshold and h from above. `Joint` takes the segment of the
convex envelope over the midpoint, which has the greatest integral of all minorants; `Chosen` takes any
slope between zero (S-IBP) and the envelope's at its vertex; `Separate` relaxes ``a s`` and ``c v`` one by
one and adds the lines: the published way, kept to compare with. Source: design, section 5.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.fused import ChosenScan, followed
from certsnn.neurons import Dynamics


class Lines(ABC):
    """Minorants of what a layer of neurons does, for every row of coefficients.

    Coefficients of all steps are ``[S, T, B, ...]``. A coefficient a of None stands for zeros.
    """

    @abstractmethod
    def pull(self, a: Tensor | None, carried: Tensor) -> Pulled:
        """Carry coefficients of the spikes back to the currents that drive the layer.

        Args:
            a: coefficients of the spikes ``[S, T, B, ...]``.
            carried: the coefficient of what is carried on after the last step, ``[S, B, ...]``.
        """

    @abstractmethod
    def until(self, steps: int) -> Lines:
        """The lines of the first steps only."""


class Pulled(NamedTuple):
    """``sum a s + carried v_T >= sum currents I + constant``.

    ``currents [S, T, B, ...]``, or ``[S, 1, B, ...]`` for a current that is the same at every step;
    ``constant [S, B]``.
    """

    currents: Tensor
    constant: Tensor


class Stepwise(Lines):
    """Lines below f at every neuron and step ``[T, B, ...]``: functions of the membrane of that step alone.

    Coefficients of one step are ``[S, B, ...]``.
    """

    dynamics: Dynamics

    @property
    @abstractmethod
    def steps(self) -> int:
        """T."""

    @abstractmethod
    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        """The slopes k ``[S, B, ...]`` of the lines at step t (from 0)."""

    @abstractmethod
    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        """The intercepts ``[S, B]`` of the lines with slopes k at step t, summed over all neurons."""

    @abstractmethod
    def until(self, steps: int) -> Stepwise:
        """The lines of the first steps only."""

    @abstractmethod
    def at(self, column: Tensor) -> Stepwise:
        """The lines of one neuron for each row: ``column [S, B]`` counts flattened neurons.

        What is returned takes coefficients ``[S, T, B, 1]``.
        """

    @final
    def pull(self, a: Tensor | None, carried: Tensor) -> Pulled:
        return scan_back(self, a, carried, [None] * (self.steps - 1))

    def pull_spikes(self, a: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
        """`scan_back` with nothing carried on after the last step; overridden where it can be fused."""
        return scan_back(self, a, torch.zeros_like(a[:, 0]), follow)


Relaxation = Callable[[Interval, Dynamics], Stepwise]
"""Lines for a layer's membranes ``[T, B, ...]``."""


def scan_back(lines: Stepwise, a: Tensor | None, carried: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
    """`Lines.pull`, from the last step to the first.

    ``follow[t]``: where the neurons of step t are at step t + 1, where each step has neurons of its own
    (``[B, m]`` positions; one past the end for those that are gone); None where they are the same ones.
    """
    slopes = []
    c = carried
    constant = c.new_zeros(c.shape[:2])
    for t in reversed(range(lines.steps)):
        if t < lines.steps - 1:
            c = followed(c, follow[t])
        spikes = None if a is None else a[:, t]
        k = lines.slopes(t, spikes, c)
        constant = constant + lines.constant(t, spikes, c, k)
        slopes.append(k)
        c = k
    return Pulled(torch.stack(slopes[::-1], 1), constant + (c * lines.dynamics.initial).flatten(2).sum(2))


@final
@dataclass(frozen=True)
class Tracked(Lines):
    """Lines of those neurons alone that matter, other ones at each step: ``[T, B, m]``; see `scan_back`."""

    lines: Stepwise
    follow: Sequence[Tensor]

    def pull(self, a: Tensor | None, carried: Tensor) -> Pulled:
        if a is None:
            raise NotImplementedError("of neurons that are at other places at each step the spikes count")
        return self.lines.pull_spikes(a, self.follow)

    def until(self, steps: int) -> Tracked:
        return Tracked(self.lines.until(steps), self.follow[: steps - 1])


def aligned(values: Tensor, coefficients: Tensor) -> Tensor:
    """Values ``[T, B, ...]`` as they are; those for each row, ``[T, S, B, ...]``, with the rows first."""
    return values if values.ndim < coefficients.ndim else values.transpose(0, 1)


def _least_width(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Unstable intervals are widened to this on the longer side of the threshold.

    Slopes then stay below ``jump / least width``: a larger interval is always sound, and rounding noise in
    steep lines through a tiny one would not be.
    """
    return threshold.to(dtype) * math.sqrt(torch.finfo(dtype).eps)


def exactly(dynamics: Dynamics, dtype: torch.dtype) -> Dynamics:
    """The same numbers in the dtype of the bounds, so that no product of them is rounded to their own."""
    threshold, decay, initial, gain, offset = (value.to(dtype) for value in dynamics[:5])
    return Dynamics(threshold, decay, initial, gain, offset, dynamics.lossless, dynamics.surrogate)


@dataclass(frozen=True)
class _Pieces:
    """Membranes ``[T, B, ...]`` sorted by what they are, and the pieces of f there."""

    low: Tensor
    high: Tensor
    silent: Tensor
    firing: Tensor
    left: Tensor
    """Unstable, and the midpoint is at or below the threshold."""


def _pieces(membranes: Interval, dynamics: Dynamics) -> _Pieces:
    low, high = membranes
    silent, firing = high < dynamics.threshold, low >= dynamics.threshold
    unstable = ~silent & ~firing
    left = low + high <= 2 * dynamics.threshold
    least = _least_width(dynamics.threshold, low.dtype)
    low = torch.where(unstable & left, torch.minimum(low, dynamics.threshold - least), low)
    high = torch.where(unstable & ~left, torch.maximum(high, dynamics.threshold + least), high)
    return _Pieces(low, high, silent, firing, left & unstable)


@final
@dataclass(frozen=True)
class Joint(Stepwise):
    r"""The segment of the convex envelope over the midpoint, for ``a s + c v`` together.

    With the vertex at the threshold, the envelope of three points has the slope

    .. math:: k = \min(c\, decay, \; inner, \; chord) \text{ left of it,} \quad
              k = \max(c\, gain, \; inner, \; chord) \text{ right of it,}

    inner being the slope from the end point l (or h) to the other piece's value at the threshold. Each is
    linear in (a, c), so the slope is ``sign * min`` of three forms with the numbers below; and the line
    passes through l (or h), which gives its intercept ``fired a + kept c - touch k``.
    """

    dynamics: Dynamics
    sign: Tensor
    adjacent_c: Tensor
    inner_a: Tensor
    inner_c: Tensor
    chord_a: Tensor
    chord_c: Tensor
    fired: Tensor
    kept: Tensor
    touch: Tensor

    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        adjacent = c * self.adjacent_c[t]
        inner, chord = c * self.inner_c[t], c * self.chord_c[t]
        if a is not None:
            inner = torch.addcmul(inner, a, self.inner_a[t])
            chord = torch.addcmul(chord, a, self.chord_a[t])
        return torch.minimum(torch.minimum(adjacent, inner), chord) * self.sign[t]

    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        intercept = torch.addcmul(c * self.kept[t], k, self.touch[t], value=-1)
        if a is not None:
            intercept = torch.addcmul(intercept, a, self.fired[t])
        return intercept.flatten(2).sum(2)

    @property
    def steps(self) -> int:
        return len(self.sign)

    def until(self, steps: int) -> Joint:
        return self._mapped(lambda values: values[:steps])

    def at(self, column: Tensor) -> Joint:
        return self._mapped(lambda values: chosen(values, column))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Joint:
        numbers = (getattr(self, field.name) for field in fields(self)[1:])
        return Joint(self.dynamics, *map(change, numbers))


def chosen(values: Tensor, column: Tensor) -> Tensor:
    """``[T, B, ...]`` at one neuron for each row, ``column [S, B]``: ``[T, S, B, 1]``."""
    rows = values.flatten(2)[:, None].expand(-1, len(column), -1, -1)
    return rows.gather(3, column[None, :, :, None].expand(len(values), -1, -1, -1))


def joint(membranes: Interval, dynamics: Dynamics) -> Joint:
    """`Joint` for membranes ``[T, B, ...]``.

    The line passes through the end e: l where the midpoint is at or below the threshold (or the neuron is
    silent), else h. Both sides have the same formulas, with the value E at e, M of the other piece at the
    threshold and O at the other end.
    """
    dynamics = exactly(dynamics, membranes.lower.dtype)
    pieces = _pieces(membranes, dynamics)
    low, high = pieces.low, pieces.high
    threshold, decay = dynamics.threshold, dynamics.decay
    gain, offset = dynamics.gain, dynamics.offset
    begins = pieces.left | pieces.silent
    stable = (pieces.silent | pieces.firing).to(low)
    sign = 2 * begins.to(low) - 1
    at_low, at_high = decay * low, gain * high + offset
    near = torch.where(begins, low, high)
    at_near, at_far = torch.where(begins, at_low, at_high), torch.where(begins, at_high, at_low)
    at_threshold = torch.where(begins, gain * threshold + offset, decay * threshold)
    adjacent = torch.where(begins, decay, -gain)
    settled = adjacent * stable
    # One over the widths, 0 where stable: such a neuron's width may be 0, and must not reach the gradient.
    inner = (1 - stable) / ((threshold - near).abs() + stable)
    chord = (1 - stable) / (high - low + stable)
    return Joint(
        dynamics,
        sign=sign,
        adjacent_c=adjacent,
        inner_a=sign * inner,
        inner_c=torch.addcmul(settled, at_threshold - at_near, inner),
        chord_a=sign * chord,
        chord_c=torch.addcmul(settled, at_far - at_near, chord),
        fired=(1 - sign) / 2,
        kept=at_near,
        touch=near,
    )


@final
@dataclass(frozen=True)
class Separate(Stepwise):
    """``a s`` and ``c v`` relaxed one by one: lines below and above the spike and what is carried on."""

    dynamics: Dynamics
    spike_low: tuple[Tensor, Tensor]
    """Slope and intercept of a line below s; likewise above it, and below and above v."""
    spike_high: tuple[Tensor, Tensor]
    carry_low: tuple[Tensor, Tensor]
    carry_high: tuple[Tensor, Tensor]

    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        k = c.clamp_min(0) * self.carry_low[0][t] + c.clamp_max(0) * self.carry_high[0][t]
        if a is None:
            return k
        return k + a.clamp_min(0) * self.spike_low[0][t] + a.clamp_max(0) * self.spike_high[0][t]

    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        intercept = c.clamp_min(0) * self.carry_low[1][t] + c.clamp_max(0) * self.carry_high[1][t]
        if a is not None:
            intercept = intercept + a.clamp_min(0) * self.spike_low[1][t]
            intercept = intercept + a.clamp_max(0) * self.spike_high[1][t]
        return intercept.flatten(2).sum(2)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Separate:
        lines = (self.spike_low, self.spike_high, self.carry_low, self.carry_high)
        changed = ((change(slope), change(intercept)) for slope, intercept in lines)
        return Separate(self.dynamics, *changed)

    @property
    def steps(self) -> int:
        return len(self.spike_low[0])

    def until(self, steps: int) -> Separate:
        return self._mapped(lambda values: values[:steps])

    def at(self, column: Tensor) -> Separate:
        return self._mapped(lambda values: chosen(values, column))


def separate(membranes: Interval, dynamics: Dynamics) -> Separate:
    """`Separate` for membranes ``[T, B, ...]``.

    Unstable, with the longer part above the threshold: ``(u - threshold) / (h - threshold) <= s <= 1``, else
    ``0 <= s <= (u - l) / (threshold - l)``. What is carried on lies above the chord of its end points if that
    passes below its value at the threshold, else above its least value; and below ``decay u`` where that
    bounds the other piece too. For the reset to zero these are the published lines.
    """
    dynamics = exactly(dynamics, membranes.lower.dtype)
    pieces = _pieces(membranes, dynamics)
    low, high, left = pieces.low, pieces.high, pieces.left
    threshold, decay = dynamics.threshold, dynamics.decay
    gain, offset = dynamics.gain, dynamics.offset
    zero, one = torch.zeros_like(low), torch.ones_like(low)
    silent, firing = pieces.silent, pieces.firing
    right = ~left & ~silent & ~firing
    to_high = torch.where(right, 1 / torch.where(right, high - threshold, one), zero)
    from_low = torch.where(left, 1 / torch.where(left, threshold - low, one), zero)
    low_line = (to_high, -threshold * to_high + firing)
    high_line = (from_low, torch.where(left, -low * from_low, one) - silent.to(low))
    at_low, at_high = decay * low, gain * high + offset
    before, after = decay * threshold + zero, gain * threshold + offset + zero
    chord = (at_high - at_low) / torch.where(high > low, high - low, one)
    at_threshold = at_low + chord * (threshold - low)

    def line(sign: float) -> tuple[Tensor, Tensor]:
        """Slope and intercept of a line below ``sign * v``."""
        ends, vertex = (
            torch.minimum(sign * at_low, sign * at_high),
            torch.minimum(sign * before, sign * after),
        )
        bent = vertex < sign * at_threshold
        slope = torch.where(bent, zero, sign * chord)
        intercept = torch.where(bent, torch.minimum(ends, vertex), sign * (at_low - chord * low))
        return slope, intercept

    def settled(slope: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.where(silent, decay, torch.where(firing, gain, slope)),
            torch.where(silent, zero, torch.where(firing, offset, intercept)),
        )

    slope, intercept = line(-1.0)
    covered = (after <= before) & (at_high <= decay * high)
    upper = torch.where(covered, decay, -slope), torch.where(covered, zero, -intercept)
    return Separate(dynamics, low_line, high_line, settled(*line(1.0)), settled(*upper))


@final
@dataclass(frozen=True)
class Slack:
    r"""How `Chosen` picks its slopes: numbers in [0, 1], ``[T, S or 1, B, ...]``.

    .. math:: k = share\, (first + mix\, (last - first))

    with the slopes ``first`` and ``last`` of the envelope left and right of the threshold (equal where it is
    a chord). ``share = 0`` is S-IBP; ``share = 1`` with ``mix`` 0 or 1 are the segments of the envelope.
    """

    share: Tensor
    mix: Tensor


@final
@dataclass(frozen=True)
class Chosen(Stepwise):
    """Lines with slopes of one's choice (`Slack`); neurons that are stable keep their exact line."""

    dynamics: Dynamics
    low: Tensor
    high: Tensor
    silent: Tensor
    firing: Tensor
    share: Tensor
    mix: Tensor

    @property
    def steps(self) -> int:
        return len(self.low)

    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        low, high, (threshold, decay, _, gain, offset) = self.low[t], self.high[t], self.dynamics[:5]
        spike = torch.zeros_like(c) if a is None else a
        at_low, at_high = decay * low, gain * high + offset
        before, after = decay * threshold, gain * threshold + offset
        chord = (spike + c * (at_high - at_low)) / (high - low)
        first = torch.minimum(
            torch.minimum(c * decay, chord), (spike + c * (after - at_low)) / (threshold - low)
        )
        last = torch.maximum(
            torch.maximum(c * gain, chord), (spike + c * (at_high - before)) / (high - threshold)
        )
        k = self.share[t] * torch.lerp(first, last, self.mix[t])
        return torch.where(self.silent[t], c * decay, torch.where(self.firing[t], c * gain, k))

    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        low, high, (threshold, decay, _, gain, offset) = self.low[t], self.high[t], self.dynamics[:5]
        below, above = c * decay - k, c * gain - k
        fired = c * offset if a is None else a + c * offset
        silent_part = torch.minimum(below * low, below * threshold)
        fired_part = fired + torch.minimum(above * threshold, above * high)
        unstable = torch.minimum(silent_part, fired_part)
        found = torch.where(self.silent[t], 0, unstable)
        return torch.where(self.firing[t], fired, found).flatten(2).sum(2)

    def pull_spikes(self, a: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
        membranes = (self.low, self.high, self.silent, self.firing)
        share, mix = (aligned(values, a).expand_as(a) for values in (self.share, self.mix))
        k, intercepts = ChosenScan.apply(a, share, mix, membranes, self.dynamics, follow)
        started = (k[:, 0] * self.dynamics.initial).flatten(2).sum(2)
        return Pulled(k, intercepts.flatten(3).sum((1, 3)) + started)

    def until(self, steps: int) -> Chosen:
        return self._mapped(lambda values: values[:steps])

    def at(self, column: Tensor) -> Stepwise:
        raise NotImplementedError("slopes are chosen for whole layers")

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Chosen:
        low, high, silent, firing, share, mix = (
            change(values) for values in (self.low, self.high, self.silent, self.firing, self.share, self.mix)
        )
        return Chosen(self.dynamics, low, high, silent, firing, share, mix)


def chosen_slopes(membranes: Interval, dynamics: Dynamics, slack: Slack) -> Chosen:
    """`Chosen` for membranes ``[T, B, ...]``."""
    low, high = membranes
    dynamics = exactly(dynamics, low.dtype)
    silent, firing = high < dynamics.threshold, low >= dynamics.threshold
    least = _least_width(dynamics.threshold, low.dtype)
    unstable = ~silent & ~firing
    low = torch.where(unstable, torch.minimum(low, dynamics.threshold - least), dynamics.threshold - 1)
    high = torch.where(unstable, torch.maximum(high, dynamics.threshold + least), dynamics.threshold + 1)
    return Chosen(dynamics, low, high, silent, firing, slack.share, slack.mix)


def midpoint(membranes: Interval, dynamics: Dynamics) -> Slack:
    """The slopes of `Joint`, ``[T, 1, B, ...]``."""
    left = membranes.lower + membranes.upper <= 2 * dynamics.threshold
    mix = (~left).to(membranes.lower)[:, None]
    return Slack(torch.ones_like(mix), mix)
