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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.joint_scan import joint_scan
from certsnn.bounds.linear.lines import (
    Neuronwise,
    Pulled,
    at_neuron,
    by_step,
    chosen,
    exactly,
    some_steps,
    summed,
)
from certsnn.dynamics import STEPWISE, Dynamics
from certsnn.kernels.lines import JointForms, joint_forms, widened

Relaxation = Callable[[Interval, Dynamics], Neuronwise]
"""Lines for a layer's membranes ``[T, B, ...]``."""


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
    dynamics: Dynamics
    """As `by_step` gives it, in the dtype of the bounds."""
    low: Tensor
    high: Tensor

    @cached_property
    def forms(self) -> JointForms:
        """The numbers of all lines."""
        return joint_forms(self.low, self.high, self.dynamics)

    def slopes(self, t: int, a: Tensor, c: Tensor) -> Tensor:
        return self.forms.slopes(t, a, c)

    def intercepts(self, t: int, a: Tensor, c: Tensor, k: Tensor) -> Tensor:
        return self.forms.intercepts(t, a, c, k)

    @property
    def steps(self) -> int:
        return len(self.low)

    def scanned(self, a: Tensor, carried: Tensor, follow: Tensor | None) -> Pulled:
        return summed(joint_scan(a, carried, self.low, self.high, self.dynamics, follow))

    def until(self, steps: int) -> Joint:
        numbers = some_steps(self.dynamics, slice(steps))
        return Joint(self.initial, numbers, self.low[:steps], self.high[:steps])

    def at(self, column: Tensor) -> Joint:
        def here(values: Tensor) -> Tensor:
            return chosen(values, column) if values.ndim else values

        initial = at_neuron(self.initial, self.low.shape[2:], column)
        dynamics = self.dynamics.mapped(here, STEPWISE)._replace(initial=initial)
        return Joint(initial, dynamics, here(self.low), here(self.high))


def joint(membranes: Interval, dynamics: Dynamics) -> Joint:
    """`Joint` for membranes ``[T, B, ...]``."""
    low, high = membranes
    dynamics = by_step(exactly(dynamics, low.dtype), low.shape)
    return Joint(dynamics.initial, dynamics, low, high)


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

    def slopes(self, t: int, a: Tensor, c: Tensor) -> Tensor:
        # A factor >= 0 keeps a line below v below; a factor < 0 turns a line above v into one below.
        k = c.clamp_min(0) * self.carry_low[0][t] + c.clamp_max(0) * self.carry_high[0][t]
        return k + a.clamp_min(0) * self.spike_low[0][t] + a.clamp_max(0) * self.spike_high[0][t]

    def intercepts(self, t: int, a: Tensor, c: Tensor, k: Tensor) -> Tensor:
        carried = c.clamp_min(0) * self.carry_low[1][t] + c.clamp_max(0) * self.carry_high[1][t]
        fired = a.clamp_min(0) * self.spike_low[1][t] + a.clamp_max(0) * self.spike_high[1][t]
        return carried + fired

    def _mapped(self, initial: Tensor, change: Callable[[Tensor], Tensor]) -> Separate:
        lines = (self.spike_low, self.spike_high, self.carry_low, self.carry_high)
        changed = ((change(slope), change(intercept)) for slope, intercept in lines)
        return Separate(initial, *changed)

    @property
    def steps(self) -> int:
        return len(self.spike_low[0])

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
    pieces = widened(*membranes, dynamics.threshold)
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
