r"""Bounds of recurrent layers (`certsnn.recurrence`): the feedback's product runs inside of the scans.

**Intervals.** Step by step: bounds of the spikes give those of the feedback (widened for the rounding of its
product), and so those of the next membranes. The count domain is not for them: the cumulative current depends
on when the neuron itself fired. **Backwards** the coefficient of a spike is its own, and what the next step's
current carries back through the transposed feedback:

.. math:: \hat a_t = a_t + F^\top k_{t+1}, \qquad
    \hat a_t s_t + c_t v_t \ge k_t u_t + d_t, \qquad c_{t-1} = k_t .

docs/theory/recurrence.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Arithmetic, Interval
from certsnn.bounds.interval.joints import Part, bounded
from certsnn.bounds.interval.layers import Layer, Source, SteppedLayer, executed_currents
from certsnn.bounds.interval.scans import next_membranes
from certsnn.bounds.linear.backward import (
    Chain,
    Coupling,
    Forms,
    Level,
    Spread,
    chain,
    magnitudes,
    membrane_error,
)
from certsnn.bounds.linear.levels import Known, level_of
from certsnn.bounds.linear.lines import Stepwise
from certsnn.dynamics import integrate
from certsnn.recurrence import RecurrentStage, spike


@bounded.register
def _(node: RecurrentStage, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    (part,) = parts
    driving = executed_currents(part.source, part.operators, arithmetic, executed)
    return SteppedLayer(fed_back(node, driving, arithmetic), node.neuron)


def fed_back(node: RecurrentStage, driving: Interval, arithmetic: Arithmetic) -> Interval:
    """Bounds ``[T, B, ...]`` of the currents with feedback, from those of what drives the layer."""
    dynamics, silent = node.neuron, torch.zeros_like(driving.lower[0])
    spikes, u, rows = Interval(silent, silent), None, []
    for low, high in zip(*driving, strict=True):
        back = arithmetic.chain(node.feedback, spikes)
        # The executed addition, and all that follows, is monotone: end points need no widening.
        rows.append(Interval(low + back.lower.to(low), high + back.upper.to(high)))
        if u is None:
            u = Interval(*(integrate(dynamics.initial, end) for end in rows[-1]))
        else:
            u = next_membranes(u, rows[-1], dynamics)
        spikes = Interval(*(spike(end, dynamics) for end in u))
    return Interval(*(torch.stack(ends) for ends in zip(*rows, strict=True)))


@final
@dataclass(frozen=True)
class FiringBack(Level):
    """A recurrent layer; ``error [T, B, ...]`` as in `Firing`, with the feedback's product and addition."""

    source: int
    coupling: Coupling
    lines: Stepwise
    feedback: Chain
    error: Tensor | None

    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms
        frames, slopes = a.shape[1], []
        lines = self.lines.until(frames)
        c = back = torch.zeros_like(a[:, 0])
        for t in reversed(range(frames)):
            spikes = a[:, t] + back
            k = lines.slopes(t, spikes, c)
            constant = constant + lines.intercepts(t, spikes, c, k).flatten(2).sum(2)
            if self.error is not None:
                error = error + 2.0**-44 * spikes.abs().flatten(2).sum(2)
                error = error + (k.abs() * self.error[t]).flatten(2).sum(2)
            # Before the first step there are no spikes: their coefficients are dropped, the bias stays.
            carried, constant, error = self.feedback.pull(Forms(k[:, None], constant, error))
            c, back = k, carried[:, 0]
            slopes.append(k)
        constant = constant + (c * lines.initial).flatten(2).sum(2)
        carried, constant, error = self.coupling.pull(Forms(torch.stack(slopes[::-1], 1), constant, error))
        return Spread([(self.source, carried)], constant, error)


@level_of.register
def _(node: RecurrentStage, values: Layer, known: Known) -> Level:
    arithmetic = known.problem.arithmetic
    membranes = Interval(*(arithmetic.raised(end) for end in values.membranes))
    feedback = chain(node.feedback, values.spikes.upper[0], arithmetic)
    lines, coupling = known.relaxation(membranes, node.neuron), known.coupling(node.link)
    return FiringBack(node.link.source, coupling, lines, feedback, _lost(node, values, membranes, known))


def _lost(node: RecurrentStage, values: Layer, membranes: Interval, known: Known) -> Tensor | None:
    """`membrane_error` with the errors of the feedback, and of its addition to the current."""
    arithmetic, size = known.problem.arithmetic, magnitudes(known.sources[node.link.source])
    error = membrane_error(node.link.operators, size, membranes, node.neuron, arithmetic)
    if error is None:
        return None
    fired = values.spikes.upper
    before = torch.cat([torch.zeros_like(fired[:1]), fired[:-1]])
    lost = arithmetic.lost(node.feedback, before.flatten(0, 1)).unflatten(0, before.shape[:2])
    low, high = values.driven_by
    sums = arithmetic.raised(torch.maximum(-low, high))
    total: Tensor = error + lost + arithmetic.unit * (1 + 2.0**-20) * sums + UNDERFLOW
    return total
