r"""Firing and carry as operators of auto_LiRPA, with bounds that hold at the threshold itself.

.. math::
    s(u) &= 1[u \ge \mathrm{threshold}] \\
    v(u) &= \mathrm{decay} \cdot u \quad\text{below the threshold}, \qquad
            \mathrm{gain} \cdot u + \mathrm{offset} \quad\text{from the threshold on}

A neuron with membranes in [l, h] is silent for sure iff h < threshold, and fires for sure iff
l >= threshold; these neurons are exact. The others have ``l < threshold <= h``, so ``threshold - l`` and
``h - l`` are positive there, while ``h - threshold`` may be 0: nothing is divided by it then. The two
operators are relaxed separately, the published way (docs/theory/linear-relaxation.md). Rounding is not
covered, but lines so steep that they would magnify it (across intervals of some units in the last place) are
left flat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import RESET_FIRST, Dynamics, carry_above, carry_below
from certsnn.surrogates import Rectangle

FIRE, CARRY = "certsnn::Fire", "certsnn::Carry"


class Lines(NamedTuple):
    """``slope u + shift`` below and above a function of u on [l, h]; all shaped as l."""

    lower_slope: Tensor
    lower_shift: Tensor
    upper_slope: Tensor
    upper_shift: Tensor


def fire(u: Tensor, dynamics: Dynamics) -> Tensor:
    """Spikes, 0 or 1."""
    return (u >= dynamics.threshold).to(u.dtype)


def carry(u: Tensor, dynamics: Dynamics) -> Tensor:
    """The potential that is carried to the next step."""
    return torch.where(u >= dynamics.threshold, carry_above(u, dynamics), carry_below(u, dynamics))


def fire_interval(lower: Tensor, upper: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Bounds of the spikes: firing is monotone."""
    return fire(lower, dynamics), fire(upper, dynamics)


def carry_interval(lower: Tensor, upper: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """Bounds of the carried potential: both branches increase, so the ends of the pieces suffice."""
    fires, silent = lower >= dynamics.threshold, upper < dynamics.threshold
    below, above = (branch(dynamics.threshold, dynamics) for branch in (carry_below, carry_above))
    low, high = carry_below(lower, dynamics), carry_above(upper, dynamics)
    return (
        torch.where(fires, carry_above(lower, dynamics), torch.where(silent, low, torch.minimum(low, above))),
        torch.where(
            silent, carry_below(upper, dynamics), torch.where(fires, high, torch.maximum(high, below))
        ),
    )


def _narrow(lower: Tensor, upper: Tensor) -> Tensor:
    """Where a line across [l, h] would turn a rounding error of u into one of more than about sqrt(eps)."""
    size = torch.maximum(lower.abs(), upper.abs())
    narrow: Tensor = upper - lower <= torch.finfo(lower.dtype).eps ** 0.5 * size
    return narrow


def fire_lines(lower: Tensor, upper: Tensor, dynamics: Dynamics) -> Lines:
    """Lines around ``s(u)``, of an unstable neuron by the longer side of the threshold.

    ``h - threshold >= threshold - l``: ``(u - threshold) / (h - threshold) <= s <= 1``, else
    ``0 <= s <= (u - l) / (threshold - l)``. Each divides by the longer side, which is not 0.
    """
    threshold = dynamics.threshold
    fires, unstable = lower >= threshold, (lower < threshold) & (upper >= threshold)
    narrow = _narrow(lower, upper)
    right = (upper - threshold >= threshold - lower) | narrow
    zero, one = torch.zeros_like(lower), torch.ones_like(lower)
    width = torch.where(right, upper - threshold, threshold - lower)
    slope = torch.where(unstable & ~narrow, 1 / torch.where(unstable & ~narrow, width, one), zero)
    stable = torch.where(fires, one, zero)
    return Lines(
        torch.where(unstable & right, slope, zero),
        torch.where(unstable, torch.where(right, -threshold * slope, zero), stable),
        torch.where(unstable & ~right, slope, zero),
        torch.where(unstable, torch.where(right, one, -lower * slope), stable),
    )


def shifts(slope: Tensor, lower: Tensor, upper: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """The least and the greatest ``v(u) - slope u`` of an unstable neuron, for any slope at all.

    Both pieces are linear, so they are found among their end points: l and the threshold from below, the
    threshold and h from above.
    """
    threshold = dynamics.threshold
    ends = [
        carry_below(lower, dynamics) - slope * lower,
        carry_below(threshold, dynamics) - slope * threshold,
        carry_above(threshold, dynamics) - slope * threshold,
        carry_above(upper, dynamics) - slope * upper,
    ]
    return torch.stack(ends).amin(0), torch.stack(ends).amax(0)


def carry_lines(lower: Tensor, upper: Tensor, dynamics: Dynamics) -> Lines:
    """Lines around ``v(u)``, of an unstable neuron along the hull of its pieces' end points.

    The lower slope is the chord's from l to h if that passes below the threshold's lesser value, else that of
    the piece which ends in it; the upper one likewise. Reset to zero: below the chord (or 0, for l >= 0),
    above ``decay u``.
    """
    fires, silent = lower >= dynamics.threshold, upper < dynamics.threshold
    rise = carry_above(upper, dynamics) - carry_below(lower, dynamics)
    flat = fires | silent | _narrow(lower, upper)
    chord = torch.where(flat, 0.0, rise / torch.where(flat, 1.0, upper - lower))
    below, above = (branch(dynamics.threshold, dynamics) for branch in (carry_below, carry_above))
    at_threshold = carry_below(lower, dynamics) + chord * (dynamics.threshold - lower)
    falls = above <= below
    decay, gain = dynamics.decay.expand_as(lower), dynamics.gain.expand_as(lower)
    low = torch.where(at_threshold <= torch.minimum(below, above), chord, torch.where(falls, gain, decay))
    high = torch.where(at_threshold >= torch.maximum(below, above), chord, torch.where(falls, decay, gain))

    branch = torch.where(fires, gain, decay)
    shift = torch.where(fires, dynamics.offset, torch.zeros_like(lower))
    stable = fires | silent
    return Lines(
        torch.where(stable, branch, low),
        torch.where(stable, shift, shifts(low, lower, upper, dynamics)[0]),
        torch.where(stable, branch, high),
        torch.where(stable, shift, shifts(high, lower, upper, dynamics)[1]),
    )


class Rules(NamedTuple):
    """A function of membranes, its bounds on an interval, and lines around it."""

    value: Callable[[Tensor, Dynamics], Tensor]
    interval: Callable[[Tensor, Tensor, Dynamics], tuple[Tensor, Tensor]]
    lines: Callable[[Tensor, Tensor, Dynamics], Lines]


RULES = {FIRE: Rules(fire, fire_interval, fire_lines), CARRY: Rules(carry, carry_interval, carry_lines)}


@final
class Operator(torch.autograd.Function):
    """A function of membranes as one node of a traced graph.

    The dynamics' numbers are arguments, as torch cannot trace two such nodes that share a tensor otherwise,
    but they are no inputs of the node: its stage tells `bound_classes` which neurons are meant.
    """

    @staticmethod
    def symbolic(g: Any, u: Any, *arguments: Any) -> Any:
        """The node of the traced graph."""
        *_, kind, stage = arguments
        return g.op(kind, u, stage_i=stage).setType(u.type())

    @staticmethod
    def forward(ctx: Any, u: Tensor, *arguments: Any) -> Tensor:
        threshold, decay, initial, gain, offset, kind, _ = arguments
        numbers = Dynamics(threshold, decay, initial, gain, offset, False, Rectangle(), RESET_FIRST)
        values: Tensor = RULES[kind].value(u, numbers)
        return values


def bound_classes(base: Any, dynamics: Sequence[Dynamics]) -> dict[str, Callable[..., Any]]:
    """The bound operators by node name, for BoundedModule's ``custom_ops``.

    Args:
        base: auto_LiRPA's class Bound.
        dynamics: the stages' neurons, in order.
    """

    @final
    class BoundNeuron(base):
        """The bounds of one node, by its rules and the neurons of its stage."""

        def __init__(self, rules: Rules, attr: Any, inputs: Any, output_index: int, options: Any) -> None:
            super().__init__(attr, inputs, output_index, options)
            self.rules, self.dynamics = rules, dynamics[int(attr["stage"])]
            self.requires_input_bounds = [0]

        def forward(self, u: Tensor) -> Tensor:
            """The function itself."""
            return self.rules.value(u, self.dynamics)

        def interval_propagate(self, *intervals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            """Its bounds on an interval."""
            return self.rules.interval(*intervals[0], self.dynamics)

        def bound_backward(
            self, last_lA: Tensor | None, last_uA: Tensor | None, x: Any, **unused: Any
        ) -> Any:
            """Coefficients towards the membranes, and their biases."""
            lines = self.rules.lines(x.lower, x.upper, self.dynamics)
            lower, lower_bias = _pull_back(last_lA, lines)
            upper, upper_bias = _pull_back(last_uA, Lines(*lines[2:], *lines[:2]))
            return [(lower, upper)], lower_bias, upper_bias

    return {kind: partial(BoundNeuron, rules) for kind, rules in RULES.items()}


def _pull_back(coefficients: Tensor | None, lines: Lines) -> tuple[Tensor | None, Tensor | float]:
    """Coefficients ``[S, B, ...]`` towards u, and the bias ``[S, B]``: the lower lines for positive ones."""
    if coefficients is None:
        return None, 0.0
    positive, negative = coefficients.clamp(min=0), coefficients.clamp(max=0)
    bias = positive * lines.lower_shift + negative * lines.upper_shift
    return positive * lines.lower_slope + negative * lines.upper_slope, bias.flatten(2).sum(2)
