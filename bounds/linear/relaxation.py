r"""Lines below what a neuron does at one step, as a function of its membrane alone.

A backward pass holds, at one neuron and step, a coefficient a on the spike and c on the potential carried
on. Both are functions of the same membrane u in ``[l, h]``:

.. math::
    f(u) = c\, decay\, u \quad (u < \theta), \qquad f(u) = a + c\, (gain\, u + offset) \quad (u \ge \theta)

For *any* slope k the line ``k u + min (f(v) - k v)`` lies below f, the minimum over the end points of the two
pieces: l and the threshold from below, the threshold and h from above. `Joint` takes the segment of the
convex envelope over the midpoint, which has the greatest integral of all minorants; `Separate` relaxes
``a s`` and ``c v`` one by one and adds the lines: the published way, kept to compare with. Chosen slopes are
in `certsnn.bounds.linear.alpha`. docs/theory/linear-relaxation.md has the proofs; the separate
lines are those of Liang et al., 2022, https://arxiv.org/abs/2205.01625 (S-CROWN).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.lines import Neuronwise, Pulled, at_neuron, chosen, exactly, least_width, scan_back
from certsnn.dynamics import Dynamics

Relaxation = Callable[[Interval, Dynamics], Neuronwise]
"""Lines for a layer's membranes ``[T, B, ...]``."""


@final
@dataclass(frozen=True)
class _Pieces:
    """Membranes ``[T, B, ...]``: where neurons are silent or firing, and the bounds of f's pieces."""

    low: Tensor
    high: Tensor
    silent: Tensor
    firing: Tensor
    left: Tensor
    """Unstable, and the midpoint is at or below the threshold."""


def _pieces(membranes: Interval, dynamics: Dynamics) -> _Pieces:
    low, high = membranes
    # All membranes are below the threshold, or none is; elsewhere both pieces of f matter.
    silent, firing = high < dynamics.threshold, low >= dynamics.threshold
    unstable = ~silent & ~firing
    left = low + high <= 2 * dynamics.threshold
    # A wider interval holds every membrane of the narrower one, so a line below f there is below f here.
    least = least_width(dynamics.threshold, low.dtype)
    low = torch.where(unstable & left, torch.minimum(low, dynamics.threshold - least), low)
    high = torch.where(unstable & ~left, torch.maximum(high, dynamics.threshold + least), high)
    return _Pieces(low, high, silent, firing, left & unstable)


@final
@dataclass(frozen=True)
class Joint(Neuronwise):
    r"""The segment of the convex envelope over the midpoint, for ``a s + c v`` together.

    With the vertex at the threshold, the envelope of three points has the slope

    .. math:: k = \min(c\, decay, \; inner, \; chord) \text{ left of it,} \quad
              k = \max(c\, gain, \; inner, \; chord) \text{ right of it,}

    inner being the slope from the end point l (or h) to the other piece's value at the threshold. Each is
    linear in (a, c), so the slope is ``sign * min`` of three forms with the numbers below; and the line
    passes through l (or h), which gives its intercept ``fired a + kept c - touch k``.
    """

    initial: Tensor
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
            # In place: a pass over the tensors less each.
            inner.addcmul_(a, self.inner_a[t])
            chord.addcmul_(a, self.chord_a[t])
        # The line passes through the end e. With the least slope (from l; the greatest, from h) towards the
        # other ends of the pieces it stays below all of them, so below both pieces, which are linear.
        return torch.minimum(torch.minimum(adjacent, inner), chord) * self.sign[t]

    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        intercept = (c * self.kept[t]).addcmul_(k, self.touch[t], value=-1)
        if a is not None:
            intercept.addcmul_(a, self.fired[t])
        return intercept.flatten(2).sum(2)

    @property
    def steps(self) -> int:
        return len(self.sign)

    def pull_spikes(self, a: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
        return scan_back(self, a, torch.zeros_like(a[:, 0]), follow)

    def until(self, steps: int) -> Joint:
        return self._mapped(self.initial, lambda values: values[:steps])

    def at(self, column: Tensor) -> Joint:
        initial = at_neuron(self.initial, self.sign.shape[2:], column)
        return self._mapped(initial, lambda values: chosen(values, column))

    def _mapped(self, initial: Tensor, change: Callable[[Tensor], Tensor]) -> Joint:
        numbers = (getattr(self, field.name) for field in fields(self)[1:])
        return Joint(initial, *map(change, numbers))


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
        dynamics.initial,
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
class Separate(Neuronwise):
    """``a s`` and ``c v`` relaxed one by one: lines below and above the spike and the carried potential."""

    initial: Tensor
    spike_low: tuple[Tensor, Tensor]
    """Slope and intercept of a line below s; likewise above it, and below and above v."""
    spike_high: tuple[Tensor, Tensor]
    carry_low: tuple[Tensor, Tensor]
    carry_high: tuple[Tensor, Tensor]

    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        # A factor >= 0 keeps a line below v below; a factor < 0 turns a line above v into one below.
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

    def _mapped(self, initial: Tensor, change: Callable[[Tensor], Tensor]) -> Separate:
        lines = (self.spike_low, self.spike_high, self.carry_low, self.carry_high)
        changed = ((change(slope), change(intercept)) for slope, intercept in lines)
        return Separate(initial, *changed)

    @property
    def steps(self) -> int:
        return len(self.spike_low[0])

    def pull_spikes(self, a: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
        return scan_back(self, a, torch.zeros_like(a[:, 0]), follow)

    def until(self, steps: int) -> Separate:
        return self._mapped(self.initial, lambda values: values[:steps])

    def at(self, column: Tensor) -> Separate:
        initial = at_neuron(self.initial, self.spike_low[0].shape[2:], column)
        return self._mapped(initial, lambda values: chosen(values, column))


def separate(membranes: Interval, dynamics: Dynamics) -> Separate:
    """`Separate` for membranes ``[T, B, ...]``.

    Unstable, with the longer part above the threshold: ``(u - threshold) / (h - threshold) <= s <= 1``, else
    ``0 <= s <= (u - l) / (threshold - l)``. The carried potential lies above the chord of its end points if
    that passes below its values at the threshold, else above its least value; and below ``decay u`` where
    that bounds the other piece too. For the reset to zero these are the published lines.
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
    # s >= 0, and s = 1 from the threshold on: a line through (threshold, 0) and (h, 1) is below s on both
    # sides. s <= 1, and s = 0 before it: a line through (l, 0) and (threshold, 1) is above s on both sides.
    low_line = (to_high, -threshold * to_high + firing)
    high_line = (from_low, torch.where(left, -low * from_low, one) - silent.to(low))
    at_low, at_high = decay * low, gain * high + offset
    before, after = decay * threshold + zero, gain * threshold + offset + zero
    chord = (at_high - at_low) / torch.where(high > low, high - low, one)
    at_threshold = at_low + chord * (threshold - low)

    def line(sign: float) -> tuple[Tensor, Tensor]:
        """Slope and intercept of a line below ``sign * v``."""
        ends = torch.minimum(sign * at_low, sign * at_high)
        vertex = torch.minimum(sign * before, sign * after)
        # Both pieces are linear, so the chord is below them if it is below both values at the threshold;
        # otherwise the least of all four values is.
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
    # decay u is the silent piece; it is above the firing one if it is above both ends of that.
    covered = (after <= before) & (at_high <= decay * high)
    upper = torch.where(covered, decay, -slope), torch.where(covered, zero, -intercept)
    return Separate(dynamics.initial, low_line, high_line, settled(*line(1.0)), settled(*upper))


RELAXATIONS: Mapping[str, Relaxation] = {"joint": joint, "separate": separate}
"""By name."""
