"""S-CROWN with S-CROWN bounds of every layer, with slopes that may be optimised.

The nodes are bounded from the first to the last. A layer of neurons by S-IBP first, then by a backward pass
for every neuron that it leaves undecided, step by step, the interval scan being rerun after each step; other
nodes by interval arithmetic from what is known of the layers by then. All of this happens in the networks
that are left of the samples (`certsnn.bounds.linear.active_neurons`); docs/theory/intermediate.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.interval import propagate as ibp
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.layers import Layer, Source, layer_of
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.active_neurons import (
    Rows,
    Scattered,
    active,
    follow,
    loose,
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
    membrane_error,
)
from certsnn.bounds.linear.constant_current import pieces
from certsnn.bounds.linear.cuts import Cut, HeldCut, JointCut, SteppedCut
from certsnn.bounds.linear.levels import Known, level_of
from certsnn.bounds.linear.margins import form_margins
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.neurons import Dynamics
from certsnn.program import Node, Program, Stage

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
        self.problem, self.relaxation, self.options = problem, relaxation, options
        self.cuts: list[Cut] = []
        inputs, self.entry = problem.support.selected(problem.x0, problem.arithmetic)
        self.selections = [inputs]
        with torch.no_grad():
            self.sources: list[Source] = [problem.support.start(problem.x0, problem.steps, feasible_flips)]
            for node in problem.program.nodes:
                if isinstance(node, Stage):
                    self._refine(node)
                else:
                    self._pass_through(node)

    def _pass_through(self, node: Node) -> None:
        """The next node, which is not a layer of neurons: bounded from narrowed bounds of its sources."""
        problem = self.problem
        values = ibp.follow(node, self.sources, problem)
        known = Known(problem, self.sources, self.relaxation)
        own = loose(values.box(), problem.arithmetic)
        level = Scattered(level_of(node, values, known), own, tuple(self.selections))
        chains = [known.chain(link) for link in node.links]
        taken = sum(shape.numel() for found in chains for shape in [*found.shapes, found.outputs])
        self.cuts.append(JointCut(level, own.fixed[0, 0].numel() + taken))
        self.selections.append(own)
        self.sources.append(values)

    def _refine(self, stage: Stage) -> None:
        """The next layer of neurons, with S-CROWN bounds where it may have them."""
        problem, link, dynamics = self.problem, stage.link, stage.neuron
        below, inputs = self.sources[link.source], self.selections[link.source]
        size = magnitudes(below)
        operators = chain(link.operators, size[0], problem.arithmetic)

        def error(layer: Layer) -> Tensor | None:
            return membrane_error(link.operators, size, self._membranes(layer), dynamics, problem.arithmetic)

        layer = layer_of(below, link.operators, dynamics, problem.arithmetic)
        rows = rows_of(operators, positions(needed(layer, dynamics)), inputs)
        if not problem.held[link.source]:
            for t in range(layer.steps):
                for iterations in sorted({0, self.options.iterations}):
                    if self.options.late():
                        break
                    # Both the old and the new bounds hold for every member, so their intersection does;
                    # and lines built from narrower bounds hold at the steps after.
                    layer = layer.narrowed(self._bounds(stage, layer, rows, error(layer), t, iterations))
        self._cut(stage, layer, rows, error(layer))
        self.sources.append(layer)

    def _membranes(self, layer: Layer) -> Interval:
        return Interval(*(self.problem.arithmetic.raised(end) for end in layer.membranes))

    def _cut(self, stage: Stage, layer: Layer, rows: Rows, error: Tensor | None) -> None:
        """Cut the layer down to its active neurons: the inputs of the nodes after it."""
        raised, source, dynamics = self.problem.arithmetic.raised, stage.link.source, stage.neuron
        known, cut, held = self._membranes(layer), None, self.problem.held[source]
        wanted = active(known, dynamics)
        if held:
            # The current is the same at every step, and so is the sum of one.
            current = Interval(*(raised(end[:1]) for end in layer.driven_by))
            ends = (float(current.lower.min()), float(current.upper.max()))
            cut = pieces(*ends, layer.steps, dynamics, self.problem.arithmetic.unit)
            # One choice of neurons for all steps, for there is one current for all of them.
            wanted = wanted.any(0, keepdim=True).expand_as(wanted)
            if cut is not None:
                known, error = current, None if error is None else error[:1]
        self.selections.append(select(wanted, raised(layer.spikes.lower)))
        index = self.selections[-1].index

        def gathered(values: Tensor) -> Tensor:
            return values.flatten(2).gather(2, index[: len(values)])

        coupling: Coupling = Constant(rows.of(index[:1])) if held else rows.of(index)
        known = Interval(*(gathered(end) for end in known))
        left = dynamics.gathered(layer.membranes.lower.shape[2:], index)
        kept = source, coupling, known, left, None if error is None else gathered(error)
        tracked = SteppedCut(*kept, follow(index, wanted.shape[2]), self.relaxation)
        self.cuts.append(tracked if cut is None else HeldCut(*kept, cut))

    def _bounds(
        self, stage: Stage, layer: Layer, rows: Rows, error: Tensor | None, t: int, iterations: int
    ) -> Interval:
        """Bounds ``[T, B, ...]`` that say something about undecided neurons at step t."""
        membranes, source = self._membranes(layer), stage.link.source
        lines, like = self.relaxation(membranes, stage.neuron), membranes.lower
        bounds = like.new_full((2, *like.shape), torch.inf).flatten(3)
        neurons = bounds.shape[3]
        # A neuron that is left out keeps infinite bounds here, which say nothing and so are sound.
        # Slopes are optimised only where that may decide a spike.
        reach = REACH if iterations else math.inf
        near = torch.cat([gap.flatten(1) <= reach for gap in layer.gap(t)], 1)
        wanted = near & layer.undecided[t].flatten(1).repeat(1, 2)
        sample = torch.arange(len(wanted), device=like.device)
        for place in positions(wanted).T.split(self._rows_at_once(source, t + 1)):
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
            forms = Forms(a.movedim(0, 1), constant, lost)
            found = self.lower(source, forms, iterations)
            where = (side[asked], t, sample.expand_as(side)[asked], column[asked])
            bounds[where] = -found[asked]
        low, high = bounds.unflatten(3, like.shape[2:])
        return Interval(-low, high)

    def lower(self, source: int, forms: Forms, iterations: int) -> Tensor:
        """Lower bounds ``[S, B]`` of forms of a node's selected values, ``[S, F, B, m]``; 0 is the input."""
        cuts = self.cuts[:source]
        with torch.no_grad():
            plain = lower(self.entry, [cut.plain for cut in cuts], forms)
        rows = len(forms.coefficients)
        if not iterations or not rows:
            return plain
        reached = reached_from(source, self.problem.program)

        def bound(slacks: Sequence[Slack]) -> Tensor:
            left = iter(slacks)
            levels = [cut.chosen(left) if k in reached else cut.plain for k, cut in enumerate(cuts, 1)]
            return lower(self.entry, levels, forms)

        start = [slack for k, cut in enumerate(cuts, 1) if k in reached for slack in cut.start(rows)]
        steps = iterations * min(MOST_EFFORT, max(1, FEW_ROWS // rows))
        # Both are lower bounds of the same forms, so the greater one is.
        return torch.maximum(plain, ascend(bound, start, steps, self.options.deadline))

    def _rows_at_once(self, source: int, steps: int) -> int:
        """Rows of coefficients on a node's values that fit into the memory, for all samples."""
        inputs = self.selections[source]
        itemsize = inputs.fixed.element_size()
        kept = 3 if self.options.iterations else 1  # the graph of the gradient, several lines of it
        alive = inputs.index.shape[2] + kept * sum(cut.size for cut in self.cuts[:source])
        row = itemsize * len(self.problem.y) * steps * alive
        return min(rows_that_fit(row, self.options.memory), max(LEAST_ROWS, CACHED // row))

    def margins(self) -> Tensor:
        """Lower bounds ``[B, K-1]`` of the margins."""
        return form_margins(self.problem.program.reading, self.problem, self.sources, self._bound_forms)

    def _bound_forms(self, forms: Forms) -> Tensor:
        """Lower bounds ``[S, B]`` of forms of what the readout takes, ``[S, F, B, ...]``."""
        source = self.problem.program.readout.source
        # A value that is not selected is the same for every member: its term is a number.
        kept, terms = self.selections[source].split(forms.coefficients)
        constant = forms.constant + terms.sum((1, 3))
        most = self._rows_at_once(source, self.problem.steps)
        parts = zip(*(part.split(most) for part in (kept, constant, forms.error)), strict=True)
        return torch.cat([self.lower(source, Forms(*part), self.options.iterations) for part in parts])


def reached_from(source: int, program: Program) -> set[int]:
    """The nodes that forms of a node's values reach on their way to the input, 0; its own number included."""
    found = {source}
    for number in range(source, 0, -1):
        if number in found:
            found.update(link.source for link in program.nodes[number - 1].links)
    return found


def sample_sizes(problem: Problem, sources: Sequence[Source]) -> Tensor:
    """Bytes ``[B]`` of the matrices that refining each sample keeps, from S-IBP's bounds.

    That is an upper bound: refined bounds are narrower, and leave fewer neurons.
    """
    inputs, _ = problem.support.selected(problem.x0, problem.arithmetic)
    kept = [(len(inputs.index), torch.full_like(problem.y, inputs.index.shape[2]))]
    numbers = torch.zeros_like(problem.y)
    for node, values in zip(problem.program.nodes, sources[1:], strict=True):
        if not isinstance(node, Stage) or not isinstance(values, Layer):
            kept.append(
                (1, torch.full_like(problem.y, loose(values.box(), problem.arithmetic).index.shape[2]))
            )
            continue
        (frames, below), found = kept[node.link.source], active(values.membranes, node.neuron)
        if problem.held[node.link.source]:
            found = found.any(0, keepdim=True)
        # All rows that may be asked for, and those of the active neurons at each step.
        most = found.sum(2).amax(0)
        numbers += (frames * needed(values, node.neuron).sum(1) + len(found) * most) * below
        kept.append((values.steps, most))
    return numbers * inputs.fixed.element_size()


def needed(layer: Layer, dynamics: Dynamics) -> Tensor:
    """``bool [B, n]``: the neurons that refining may ask for: unstable or undecided at some step."""
    low, high = layer.membranes
    # It may fire (u >= threshold) and may not (u < threshold): the bounds leave room on both sides.
    unstable = (low < dynamics.threshold) & (high >= dynamics.threshold)
    return (unstable | layer.undecided).any(0).flatten(1)
