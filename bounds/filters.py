r"""Bounds of linear filters over time (`certsnn.filters`).

**Intervals.** ``decay >= 0`` makes every operation monotone, so the executed ones on end points bound the
executed values exactly. **Sums over steps 1..t**, for the count domain: with ``y_t = decay y_{t-1} + x_t``
the sums of y are the filtered sums of x, so nothing that bounds of sums know is lost. **Backwards** the
transposed filter runs: ``sum_t a_t y_t = sum_t g_t x_t`` with ``g_t = a_t + decay g_{t+1}``.
docs/theory/filters.md has the proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Arithmetic
from certsnn.bounds.interval.joints import Join, Part, bounded
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.linear.backward import Coupling, Forms, Level, Spread, magnitudes, missed
from certsnn.bounds.linear.levels import Known, level_of
from certsnn.filters import Filter, filtered
from certsnn.program import hold


@final
@dataclass(frozen=True)
class Filtered(Join):
    """A filter's values."""

    decay: Tensor

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        return filtered(parts[0], self.decay, self.steps)

    def lost(self) -> Tensor:
        return filtered(rounding(self, self.decay, self.arithmetic), self.decay, self.steps)


def rounding(values: Source, decay: Tensor, arithmetic: Arithmetic) -> Tensor:
    r"""How far an executed value may be from the exact step from executed ones, ``[T, B, ...]``.

    The product rounds by ``u |decay y_{t-1}|``, the sum by ``u |y_t|``. Doubled, this also covers the float64
    operations of the bounds, which are relative to the same numbers with ``2^-53`` in place of u.
    """
    size = arithmetic.raised(magnitudes(values))
    before = torch.cat([torch.zeros_like(size[:1]), decay * size[:-1]])
    # A subnormal decay or value may be taken as 0.
    return 2 * arithmetic.unit * (size + before) + 2 * arithmetic.underflow


@final
@dataclass(frozen=True)
class Filtering(Level):
    """A filter as a backward pass sees it; ``error [T, B, ...]``: of each executed current and step."""

    source: int
    coupling: Coupling
    decay: Tensor
    error: Tensor | None

    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms
        frames = a.shape[1]
        g = filtered(a.movedim(1, 0).flip(0), self.decay, frames).flip(0).movedim(0, 1)
        if self.error is not None:
            error = error + missed(g, self.error)
        carried, constant, error = self.coupling.pull(Forms(g, constant, error))
        return Spread([(self.source, carried)], constant, error)


@bounded.register
def _(node: Filter, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    return Filtered(tuple(parts), arithmetic, executed, node.decay)


@level_of.register
def _(node: Filter, values: Source, known: Known) -> Level:
    (link,), arithmetic = node.links, known.problem.arithmetic
    error = None
    if arithmetic.unit:
        error = hold(known.lost(link), values.steps) + rounding(values, node.decay, arithmetic)
    return Filtering(link.source, known.coupling(link), node.decay, error)
