"""S-CROWN with S-CROWN bounds of every layer, sample by sample, with slopes that may be optimised.

The layers are bounded from the first to the last: S-IBP first, then a backward pass for every neuron that it
leaves undecided, step by step, the interval scan being rerun after each step. All of this happens in the
network that is left of one sample (`certsnn.bounds.sparse`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.crown import (
    Coupling,
    Forms,
    Level,
    chain,
    lower,
    magnitudes,
    margin_forms,
    membrane_error,
)
from certsnn.bounds.flips import FeasibleFlips
from certsnn.bounds.held import Pieces, held, pieces
from certsnn.bounds.ibp import rates, source_of
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.problem import Options, Problem
from certsnn.bounds.relaxation import Lines, Relaxation, Slack, Stepwise, Tracked, chosen_slopes, midpoint
from certsnn.bounds.slopes import ascend
from certsnn.bounds.sources import Layer, layer_of
from certsnn.bounds.sparse import Rows, active, follow, rows_of, select, selected_inputs
from certsnn.neurons import Dynamics

REACH = 0.15
"""Optimised slopes narrow bounds by some percent of their width: beyond this they decide nothing."""
FEW_ROWS, MOST_EFFORT = 64, 4
"""Where rows are few, each gets up to so many times the steps: it costs no more."""


@final
@dataclass(frozen=True)
class Cut:
    """A layer cut down to its active neurons: bounds ``[F, 1, m]`` of their membranes, or held currents.

    ``follow`` as in `relaxation.scan_back`; ``held``: whether the current is the same at every step, and
    ``pieces`` what it can cause (None: relaxed step by step).
    """

    coupling: Coupling
    known: Interval
    dynamics: Dynamics
    error: Tensor | None
    follow: Sequence[Tensor]
    held: bool
    pieces: Pieces | None
    relaxation: Relaxation

    @property
    def size(self) -> int:
        """Numbers that a row takes at each step."""
        neurons = self.known.lower.shape[2]
        return neurons if self.pieces is None else 2 * len(self.pieces.lower) * neurons

    def start(self, rows: int) -> Slack:
        """The slopes of the envelope over the midpoint, for so many rows."""
        if self.pieces is not None:
            share = torch.ones_like(self.known.lower)[:, None].expand(-1, rows, -1, -1)
            return Slack(share, share / 2)
        slack = midpoint(self.known, self.dynamics)
        return Slack(slack.share.expand(-1, rows, -1, -1), slack.mix.expand(-1, rows, -1, -1))

    def plain(self) -> Level:
        """The level with the lines of the relaxation."""
        if self.pieces is not None:
            return self._level(held(self._currents, self.pieces, self.dynamics))
        return self._level(Tracked(self.relaxation(self.known, self.dynamics), self.follow))

    def chosen(self, slack: Slack) -> Level:
        """The level with slopes of one's choice."""
        if self.pieces is not None:
            return self._level(held(self._currents, self.pieces, self.dynamics, slack))
        return self._level(Tracked(chosen_slopes(self.known, self.dynamics, slack), self.follow))

    @property
    def _currents(self) -> Interval:
        return Interval(self.known.lower[0], self.known.upper[0])

    def _level(self, lines: Lines) -> Level:
        return Level(self.coupling, lines, self.error, self.held)


@final
class Refinement:
    """One sample's layers and levels, as far as they are known."""

    def __init__(self, problem: Problem, relaxation: Relaxation, options: Options) -> None:
        if len(problem.y) != 1:
            raise ValueError(f"layers are refined for one sample at a time, got {len(problem.y)}")
        self.problem, self.relaxation, self.options = problem, relaxation, options
        self.layers: list[Layer] = []
        self.cuts: list[Cut] = []
        self.inputs, self.entry = selected_inputs(problem.input_set, problem.x0, problem.arithmetic)
        with torch.no_grad():
            source = source_of(problem.input_set, problem.x0, problem.steps, FeasibleFlips())
            for stage in problem.program.stages:
                layer = layer_of(source, stage.operators, stage.neuron, problem.arithmetic)
                source = self._take(layer, stage.operators, stage.neuron)

    @property
    def held(self) -> bool:
        """Whether the next layer is driven by a current that is the same at every step."""
        return not self.layers and self.problem.input_set.domain == "image"

    def _take(self, layer: Layer, operators: Sequence[Affine], dynamics: Dynamics) -> Layer:
        problem = self.problem
        raised = problem.arithmetic.raised
        below = self.layers[-1] if self.layers else None
        size = magnitudes(problem.x0, problem.input_set, below)
        links = chain(operators, size[0], problem.arithmetic)
        shape = layer.membranes.lower.shape[2:]

        def membranes() -> Interval:
            return Interval(*(raised(end) for end in layer.membranes))

        def error() -> Tensor | None:
            return membrane_error(operators, size, membranes(), dynamics, problem.arithmetic)

        # Counts depend on all currents so far.
        wanted = layer.undecided.flip(0).cummax(0).values.flip(0)
        needed = active(membranes(), dynamics, wanted).any(0)
        needed[0] = True  # selections are never empty
        rows = rows_of(links, shape, needed.nonzero().flatten(), self.inputs)
        if not self.held:
            for t in range(layer.steps):
                for iterations in sorted({0, self.options.iterations}):
                    if self.options.late():
                        break
                    lines = self.relaxation(membranes(), dynamics)
                    layer = layer.narrowed(self._bounds(layer, lines, rows, error(), t, iterations))
        known, lost = membranes(), error()
        wanted = active(known, dynamics, torch.zeros_like(layer.undecided))
        cut = None
        if self.held:
            # The current is the same at every step, and so is the sum of one.
            low, high = layer.driven_by.lower[:1], layer.driven_by.upper[:1]
            cut = pieces(float(low.min()), float(high.max()), layer.steps, dynamics, problem.arithmetic.unit)
            wanted = wanted.any(0, keepdim=True).expand_as(wanted)
        spikes = raised(layer.spikes.lower)[:, 0]
        chosen = select(wanted, spikes)
        index = chosen.index

        def gathered(values: Tensor) -> Tensor:
            return values.flatten(2).gather(2, index[: len(values), None])

        if cut is not None:
            known = Interval(raised(low), raised(high))
            lost = None if lost is None else lost[:1]
        self.cuts.append(
            Cut(
                rows.of(index[:1] if self.held else index),
                Interval(*(gathered(end) for end in known)),
                dynamics,
                None if lost is None else gathered(lost),
                follow(index, math.prod(shape)),
                self.held,
                cut,
                self.relaxation,
            )
        )
        self.layers.append(layer)
        self.inputs = chosen
        return layer

    def _bounds(
        self, layer: Layer, lines: Stepwise, rows: Rows, error: Tensor | None, t: int, iterations: int
    ) -> Interval:
        """Bounds ``[T, 1, ...]`` that say something about undecided neurons at step t."""
        like = self.problem.arithmetic.raised(layer.membranes.lower)
        bounds = like.new_full((2, *like.shape), torch.inf).flatten(3)
        # Slopes are optimised only where that may decide something.
        reach = REACH if iterations else math.inf
        near = torch.stack([gap[0].flatten() <= reach for gap in layer.gap(t)])
        wanted = near & layer.undecided[t, 0].flatten()
        for piece in wanted.nonzero().split(self._rows_at_once(t + 1)):
            if not len(piece):
                break
            side, column = piece.T
            sign = (1 - 2 * side).to(like)[:, None, None]
            k, constant = layer.reaching(lines, t, column[:, None], sign)
            k = k[:, :, 0, 0]
            place = rows.place[column]
            constant = constant[:, 0] + (k * rows.shift[: t + 1, place].T).sum(1)
            lost = torch.zeros_like(constant)
            if error is not None:
                lost = (k.abs() * error.flatten(1)[: t + 1, column].T).sum(1)
            a = k[:, :, None] * rows.matrix[: t + 1, place].movedim(0, 1)
            forms = Forms(a[:, :, None], constant[:, None], lost[:, None])
            bounds[side, t, 0, column] = -self.lower(forms, iterations)[:, 0]
        low, high = bounds.unflatten(3, like.shape[2:])
        return Interval(-low, high)

    def lower(self, forms: Forms, iterations: int) -> Tensor:
        """Lower bounds ``[S, 1]`` of forms of the last layer's active neurons, ``[S, F, 1, m]``."""
        with torch.no_grad():
            plain = lower(self.entry, [cut.plain() for cut in self.cuts], forms)
        rows = len(forms.coefficients)
        if not iterations or not rows:
            return plain

        def bound(slacks: Sequence[Slack]) -> Tensor:
            levels = [cut.chosen(slack) for cut, slack in zip(self.cuts, slacks, strict=True)]
            return lower(self.entry, levels, forms)

        start = [cut.start(rows) for cut in self.cuts]
        steps = iterations * min(MOST_EFFORT, max(1, FEW_ROWS // rows))
        return torch.maximum(plain, ascend(bound, start, steps, self.options.deadline))

    def _rows_at_once(self, steps: int) -> int:
        """Rows of the next layer whose coefficients fit into the memory, in float64."""
        kept = 3 if self.options.iterations else 1  # the graph of the gradient, several lines of it
        alive = self.inputs.index.shape[1] + kept * sum(cut.size for cut in self.cuts)
        return rows_that_fit(8 * steps * alive, self.options.memory)

    def margins(self) -> Tensor:
        """Lower bounds ``[1, K-1]`` of the margins."""
        problem, last = self.problem, self.layers[-1]
        rate = rates(last, problem.x0.dtype)
        forms = margin_forms(problem.program.readout, rate, problem.y, problem.steps, problem.arithmetic)
        a = forms.coefficients.flatten(3).expand(-1, problem.steps, -1, -1)
        kept = a.gather(3, self.inputs.index[None, :, None].expand(len(a), -1, 1, -1))
        constant = forms.constant + (a * self.inputs.fixed.flatten(1)[:, None]).sum((1, 3))
        found = self.lower(Forms(kept, constant, forms.error), self.options.iterations)
        return found.T / problem.steps
