"""S-CROWN with S-CROWN bounds of every layer, with slopes that may be optimised.

The layers are bounded from the first to the last: S-IBP first, then a backward pass for every neuron that it
leaves undecided, step by step, the interval scan being rerun after each step. All of this happens in the
networks that are left of the samples (`certsnn.bounds.linear.active_neurons`); docs/theory/intermediate.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.layers import Layer, Source, layer_of
from certsnn.bounds.interval.propagate import last_mean, layers_of
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.active_neurons import (
    Rows,
    active,
    follow,
    positions,
    rows_of,
    select,
)
from certsnn.bounds.linear.alpha import Slack
from certsnn.bounds.linear.ascent import ascend
from certsnn.bounds.linear.backward import (
    Constant,
    Coupling,
    Forms,
    chain,
    lower,
    magnitudes,
    margin_forms,
    membrane_error,
)
from certsnn.bounds.linear.constant_current import pieces
from certsnn.bounds.linear.cuts import Cut, HeldCut, SteppedCut
from certsnn.bounds.linear.lines import Neuronwise
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.neurons import Dynamics

REACH = 0.15
"""Optimised slopes narrow bounds by some percent of their width: beyond this they decide nothing."""
CACHED, LEAST_ROWS = 2**22, 64
"""Bytes of coefficients at a time, to stay in the cache; and the least number of rows."""
FEW_ROWS, MOST_EFFORT = 64, 4
"""With fewer rows than the first, each gets up to the second times the steps: it costs no more."""


@final
class Refinement:
    """The layers and levels of a batch, as far as they are known."""

    def __init__(self, problem: Problem, relaxation: Relaxation, options: BoundOptions) -> None:
        if not problem.program.is_chain:
            raise TypeError("S-CROWN bounds of layers are there for chains of layers only; use s-crown-ibp")
        self.problem, self.relaxation, self.options = problem, relaxation, options
        self.sources: list[Source] = []
        self.cuts: list[Cut] = []
        self.inputs, self.entry = problem.support.selected(problem.x0, problem.arithmetic)
        with torch.no_grad():
            self.sources.append(problem.support.start(problem.x0, problem.steps, feasible_flips))
            for stage in problem.program.stages:
                operators = stage.link.operators
                layer = layer_of(self.sources[-1], operators, stage.neuron, problem.arithmetic)
                self.sources.append(self._taken(layer, operators, stage.neuron))

    @property
    def held(self) -> bool:
        """Whether the next layer is driven by a current that is the same at every step."""
        return self.problem.held[len(self.sources) - 1]

    def _taken(self, layer: Layer, operators: Sequence[Affine], dynamics: Dynamics) -> Layer:
        """The next layer, with S-CROWN bounds where it may have them."""
        problem = self.problem
        size = magnitudes(self.sources[-1])
        links = chain(operators, size[0], problem.arithmetic)

        def error(layer: Layer) -> Tensor | None:
            return membrane_error(operators, size, self._membranes(layer), dynamics, problem.arithmetic)

        asked = positions(needed(layer, dynamics))
        rows = rows_of(links, asked, self.inputs)
        if not self.held:
            for t in range(layer.steps):
                for iterations in sorted({0, self.options.iterations}):
                    if self.options.late():
                        break
                    # Both the old and the new bounds hold for every member, so their intersection does;
                    # and lines built from narrower bounds hold at the steps after.
                    lines = self.relaxation(self._membranes(layer), dynamics)
                    layer = layer.narrowed(self._bounds(layer, lines, rows, error(layer), t, iterations))
        self._cut(layer, rows, dynamics, error(layer))
        return layer

    def _membranes(self, layer: Layer) -> Interval:
        return Interval(*(self.problem.arithmetic.raised(end) for end in layer.membranes))

    def _cut(self, layer: Layer, rows: Rows, dynamics: Dynamics, error: Tensor | None) -> None:
        """Cut the layer down to its active neurons; they are the next one's inputs."""
        raised = self.problem.arithmetic.raised
        known, cut = self._membranes(layer), None
        wanted = active(known, dynamics)
        if self.held:
            # The current is the same at every step, and so is the sum of one.
            current = Interval(*(raised(end[:1]) for end in layer.driven_by))
            ends = (float(current.lower.min()), float(current.upper.max()))
            cut = pieces(*ends, layer.steps, dynamics, self.problem.arithmetic.unit)
            # One choice of neurons for all steps, for there is one current for all of them.
            wanted = wanted.any(0, keepdim=True).expand_as(wanted)
            if cut is not None:
                known, error = current, None if error is None else error[:1]
        self.inputs = select(wanted, raised(layer.spikes.lower))
        index = self.inputs.index

        def gathered(values: Tensor) -> Tensor:
            return values.flatten(2).gather(2, index[: len(values)])

        coupling: Coupling = Constant(rows.of(index[:1])) if self.held else rows.of(index)
        known = Interval(*(gathered(end) for end in known))
        kept = len(self.sources) - 1, coupling, known, dynamics, None if error is None else gathered(error)
        tracked = SteppedCut(*kept, follow(index, wanted.shape[2]), self.relaxation)
        self.cuts.append(tracked if cut is None else HeldCut(*kept, cut))

    def _bounds(
        self, layer: Layer, lines: Neuronwise, rows: Rows, error: Tensor | None, t: int, iterations: int
    ) -> Interval:
        """Bounds ``[T, B, ...]`` that say something about undecided neurons at step t."""
        like = self._membranes(layer).lower
        bounds = like.new_full((2, *like.shape), torch.inf).flatten(3)
        neurons = bounds.shape[3]
        # A neuron that is left out keeps infinite bounds here, which say nothing and so are sound.
        # Slopes are optimised only where that may decide a spike.
        reach = REACH if iterations else math.inf
        near = torch.cat([gap.flatten(1) <= reach for gap in layer.gap(t)], 1)
        wanted = near & layer.undecided[t].flatten(1).repeat(1, 2)
        sample = torch.arange(len(wanted), device=like.device)
        for place in positions(wanted).T.split(self._rows_at_once(t + 1)):
            asked = wanted.gather(1, place.T).T
            if not bool(asked.any()):
                break
            side, column = place // neurons, place % neurons
            # Side 0 bounds +u from below; side 1 bounds -u from below, which is u from above.
            k, constant = layer.reaching(lines, t, column, (1 - 2 * side).to(like)[:, :, None])
            into = rows.single(column, t + 1)
            by_step = k[..., 0].transpose(0, 1)
            a = by_step[..., None] * into.matrix
            constant = constant + (by_step * into.shift).sum(0)
            lost = torch.zeros_like(constant)
            if error is not None:
                # An executed current is off by at most e, so k I is at least its exact value less |k| e.
                lost = (by_step.abs() * error.flatten(2)[: t + 1, sample, column]).sum(0)
            found = self.lower(Forms(a.movedim(0, 1), constant, lost), iterations)
            where = (side[asked], t, sample.expand_as(side)[asked], column[asked])
            bounds[where] = -found[asked]
        low, high = bounds.unflatten(3, like.shape[2:])
        return Interval(-low, high)

    def lower(self, forms: Forms, iterations: int) -> Tensor:
        """Lower bounds ``[S, B]`` of forms of the last layer's active neurons, ``[S, F, B, m]``."""
        with torch.no_grad():
            plain = lower(self.entry, [cut.plain for cut in self.cuts], forms)
        rows = len(forms.coefficients)
        if not iterations or not rows:
            return plain

        def bound(slacks: Sequence[Slack]) -> Tensor:
            levels = [cut.chosen(slack) for cut, slack in zip(self.cuts, slacks, strict=True)]
            return lower(self.entry, levels, forms)

        start = [cut.start(rows) for cut in self.cuts]
        steps = iterations * min(MOST_EFFORT, max(1, FEW_ROWS // rows))
        # Both are lower bounds of the same forms, so the greater one is.
        return torch.maximum(plain, ascend(bound, start, steps, self.options.deadline))

    def _rows_at_once(self, steps: int) -> int:
        """Rows of the next layer whose coefficients fit into the memory, for all samples."""
        itemsize = self.inputs.fixed.element_size()
        kept = 3 if self.options.iterations else 1  # the graph of the gradient, several lines of it
        alive = self.inputs.index.shape[2] + kept * sum(cut.size for cut in self.cuts)
        row = itemsize * len(self.problem.y) * steps * alive
        return min(rows_that_fit(row, self.options.memory), max(LEAST_ROWS, CACHED // row))

    def margins(self) -> Tensor:
        """Lower bounds ``[B, K-1]`` of the margins."""
        problem = self.problem
        forms = margin_forms(problem, last_mean(problem, self.sources))
        a = forms.coefficients.flatten(3).expand(-1, problem.steps, -1, -1)
        # A neuron that is not selected has one value for every member: its term is that number.
        kept = a.gather(3, self.inputs.index.expand(len(a), -1, -1, -1))
        constant = forms.constant + (a * self.inputs.fixed.flatten(2)).sum((1, 3))
        most = self._rows_at_once(problem.steps)
        parts = zip(*(part.split(most) for part in (kept, constant, forms.error)), strict=True)
        found = [self.lower(Forms(*part), self.options.iterations) for part in parts]
        return torch.cat(found).T / problem.steps


def sample_sizes(problem: Problem, sources: Sequence[Source]) -> Tensor:
    """Bytes ``[B]`` of the matrices that refining each sample keeps, from S-IBP's bounds.

    That is an upper bound: refined bounds are narrower, and leave fewer neurons.
    """
    inputs, _ = problem.support.selected(problem.x0, problem.arithmetic)
    frames, _, width = inputs.index.shape
    below = torch.full_like(problem.y, width)
    numbers = torch.zeros_like(problem.y)
    for layer, stage in zip(layers_of(sources), problem.program.stages, strict=True):
        numbers += 2 * frames * needed(layer, stage.neuron).sum(1) * below
        frames, below = layer.steps, active(layer.membranes, stage.neuron).sum(2).amax(0)
    return numbers * inputs.fixed.element_size()


def needed(layer: Layer, dynamics: Dynamics) -> Tensor:
    """``bool [B, n]``: the neurons that refining may ask for: unstable or undecided at some step."""
    low, high = layer.membranes
    # It may fire (u >= threshold) and may not (u < threshold): the bounds leave room on both sides.
    unstable = (low < dynamics.threshold) & (high >= dynamics.threshold)
    return (unstable | layer.undecided).any(0).flatten(1)
