r"""One sample's integrate-and-fire network as linear constraints on integers, exact up to rounding.

For neurons that conserve charge, the count ``N_t`` of spikes so far depends on the cumulative currents C
alone (`interval.scans`). With binary variables ``y_{t,n} = 1[N_t >= n]``, so ``N_t = sum_n y_{t,n}``,

.. math:: y_{t,n} = 1 \iff y_{t-1,n} = 1 \text{ or } (y_{t-1,n-1} = 1 \text{ and }
          C_t \ge threshold - initial - offset (n - 1)).

Both directions are linear, with the bounds of ``C_t`` where a constant must be large enough. With direct
encoding a first-layer neuron sees one current I, and its whole train is a function of I
(`linear.constant_current`): the binary variable ``b_k`` says that I lies in the k-th piece or beyond. Only
what S-IBP leaves undecided becomes a variable. docs/theory/branch-and-bound.md has every row.

What joins outputs, sums and concatenations, makes no variables: its values are affine functions of those
there are (`search.sums`).

**Rounding.** Executed currents are off by at most ``lost`` in each step, executed membranes by at most E
(`accumulated_rounding`). A spike therefore says ``C_t >= ... - e``, a silent step ``C_t <= ... + e``, with
``e_t = sum_{k <= t} lost_k + E_t``, enlarged for the float64 coefficients. To ``lost`` belongs what executed
sums have lost on the way, times the magnitudes of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from certsnn.bounds.interval.layers import CountedLayer, Source
from certsnn.bounds.linear.constant_current import pieces
from certsnn.bounds.linear.levels import Known, lost_beside, lost_in_sum
from certsnn.bounds.linear.relaxation import joint
from certsnn.bounds.problem import Problem
from certsnn.bounds.search.constraints import Vector
from certsnn.bounds.search.model import Model, Terms
from certsnn.bounds.search.sums import Linked, Places, Sums, added, array, beside, carried, linked
from certsnn.neurons import Dynamics
from certsnn.program import Concatenation, Link, Node, Program, Stage, Sum

ENLARGED = 1 + 2.0**-20


def encode(problem: Problem, sources: Sequence[Source], memory: int) -> tuple[Model, Sums, Places]:
    """One sample's network as constraints, from the bounds of its values.

    Args:
        problem: one sample; its arithmetic covers rounding.
        sources: bounds of all values, as `Program.values` counts them; of layers in the count domain.
        memory: bytes that the constraints may take.

    Returns:
        The constraints, the values that the readout takes, and the variables of the free inputs ``[F * n]``
        (-1 where an input is fixed).

    Raises:
        OverBudget: if the constraints need more memory.
        TypeError: if a layer is not in the count domain, or a node is not for a search (`takes`).
    """
    model = Model()
    start, inputs = _inputs(model, problem)
    so_far = Encoded(model, Known(problem, sources, joint), [start], memory)
    for node, bounds in zip(problem.program.nodes, sources[1:], strict=True):
        so_far.values.append(encoded(node, bounds, so_far))
        model.check_memory(memory, sum(len(values.value) for values in so_far.values))
    return model, so_far.values[problem.program.readout.source], inputs


class Encoded(NamedTuple):
    """What there is of a network so far: ``values`` as `Program.values` counts them."""

    model: Model
    known: Known
    values: list[Sums]
    memory: int

    def at(self, link: Link, places: Tensor) -> Linked:
        """The operators of a link, those that lead to its outputs ``places [u]``."""
        problem = self.known.problem
        like = problem.arithmetic.raised(problem.x0.detach()[:0])
        return linked(self.known.chain(link), places, like, self.memory)

    def outputs(self, link: Link) -> Sums:
        """All outputs of a link."""
        values = self.values[link.source]
        if not link.operators:
            return values
        every = torch.arange(self.known.chain(link).outputs.numel(), device=self.known.problem.x0.device)
        return carried(values, self.at(link, every), self.model.size)

    def lost(self, lost: Tensor | None) -> Vector:
        """Errors ``[F, 1, ...]`` of single steps, summed up over all steps so far, ``[T, n]``."""
        one = np.zeros((1, 1)) if lost is None else array(lost)
        found: Vector = np.broadcast_to(one, (self.known.problem.steps, one.shape[1])).cumsum(0)
        return found


@singledispatch
def encoded(node: Node, bounds: Source, so_far: Encoded) -> Sums:
    """A node's values, with what they need of variables and rows; register a function here for a new class.

    Raises:
        TypeError: for a node that is not for a search.
    """
    raise TypeError(f"branch and bound has no constraints for {type(node).__name__} ({node.name})")


@encoded.register
def _(node: Stage, bounds: Source, so_far: Encoded) -> Sums:
    if not isinstance(bounds, CountedLayer):
        raise TypeError("constraints on counts need neurons that conserve charge (decay and gain 1)")
    source = node.link.source
    coupled = _coupled(node.link, bounds, so_far)
    trains = _trains(bounds, node.neuron) if so_far.known.problem.held[source] else None
    if trains is None:
        return _counted(so_far.model, so_far.values[source], coupled, bounds)
    return _held(so_far.model, so_far.values[source], coupled, bounds, trains)


@encoded.register
def _(node: Sum, bounds: Source, so_far: Encoded) -> Sums:
    return added(list(map(so_far.outputs, node.links)), so_far.lost(lost_in_sum(node, so_far.known)))


@encoded.register
def _(node: Concatenation, bounds: Source, so_far: Encoded) -> Sums:
    return beside(list(map(so_far.outputs, node.links)), so_far.lost(lost_beside(node, so_far.known)))


def takes(program: Program) -> bool:
    """Whether `encode` is for a program: neurons that conserve charge, and nodes that have constraints."""
    known = all(encoded.dispatch(type(node)) is not encoded.dispatch(Node) for node in program.nodes)
    return known and all(stage.neuron.lossless for stage in program.stages)


def _inputs(model: Model, problem: Problem) -> tuple[Sums, Places]:
    """Variables for the free inputs, and the inputs summed over time."""
    low, high = problem.input_set.box(problem.x0)
    held = problem.held[0]
    lower, upper = (array(end[None] if held else end) for end in (low, high))
    whole = problem.input_set.grain == 1
    # Fixed inputs become constants; their sums over time are exact if they are whole numbers, or one number
    # that is held. Others stay variables, whose sums the rounding terms of the rows cover.
    variable = (lower < upper) | (not whole and not held)
    frame, place = variable.nonzero()
    column = model.variables(lower[frame, place], upper[frame, place], whole)
    inputs = np.full(lower.shape, -1)
    inputs[frame, place] = column
    problem.support.restrict(model, array(problem.x0[None] if held else problem.x0), inputs)
    fixed = np.where(variable, 0.0, lower)
    steps = np.arange(problem.steps)
    # A frame counts at its own and all later steps; an image counts again at each.
    step, entry = (steps[:, None] >= frame).nonzero()
    value = (step + 1 if held else np.ones_like(step)).astype(np.float64)
    constant = ((steps[:, None] + 1) * fixed if held else fixed.cumsum(0)).astype(np.float64)
    sums = Sums(step, place[entry], column[entry], value, constant, np.zeros_like(constant))
    return sums, inputs.flatten()


class _Coupled(NamedTuple):
    """The affine operators into a layer's undecided neurons ``neurons [u]``.

    ``lost [T, u]``: how far currents summed so far may be from what the link makes of `Sums`.
    """

    neurons: Places
    link: Linked
    lost: Vector


def _coupled(link: Link, layer: CountedLayer, so_far: Encoded) -> _Coupled:
    undecided = layer.undecided.any(0).flatten().nonzero().flatten()
    found, neurons = so_far.at(link, undecided), undecided.cpu().numpy()
    # What the values have lost is weighed by the link; its own products err in each step.
    before = (abs(found.matrix) @ so_far.values[link.source].lost.T).T
    return _Coupled(neurons, found, so_far.lost(so_far.known.lost(link))[:, neurons] + before)


class _Trains(NamedTuple):
    """`Pieces` in the order of their currents, ends ascending: ``lower, upper [M]``, ``counts [T, M]``."""

    lower: Vector
    upper: Vector
    counts: Vector


def _trains(layer: CountedLayer, dynamics: Dynamics) -> _Trains | None:
    """All trains that a constant current can cause; None if there are too many."""
    low, high = layer.driven_by.lower[0], layer.driven_by.upper[0]
    found = pieces(float(low.min()), float(high.max()), layer.steps, dynamics, layer.arithmetic.unit)
    if found is None:
        return None
    lower, upper = found.lower.numpy(), found.upper.numpy()
    # They ascend but for the overlaps; a wider piece holds every current of the narrower one.
    lower, upper = np.minimum.accumulate(lower[::-1])[::-1], np.maximum.accumulate(upper)
    return _Trains(lower, upper, found.spikes.cumsum(1).numpy().T)


def _held(model: Model, sums: Sums, coupled: _Coupled, layer: CountedLayer, trains: _Trains) -> Sums:
    """Counts of neurons whose current is the same at every step."""
    least, most = (array(end[:1])[0, coupled.neurons] for end in layer.driven_by)
    counts = array(layer.scan.counts.lower).copy()
    current = model.variables(least, most, False)
    lost = coupled.lost[0] * ENLARGED
    _define(model, sums, coupled, 0, np.arange(len(current)), current, lost)
    found: list[tuple[Places, Places, Places, Vector]] = []
    for neuron, column, low, high in zip(coupled.neurons, current, least, most, strict=True):
        # No current of this neuron lies in a piece that ends below its bounds or begins above them.
        reached = ((trains.lower <= high) & (trains.upper >= low)).nonzero()[0]
        # More than the float64 rounding of the ends and of the rows made of them.
        slack = 2.0**-44 * max(abs(low), abs(high))
        lower = np.maximum(trains.lower[reached], low) - slack
        upper = np.minimum(trains.upper[reached], high) + slack
        beyond = model.switches(len(reached) - 1)
        switch = [Terms(beyond[k : k + 1], np.zeros(1)) for k in range(len(beyond))]
        # A current in piece k + 1 or beyond is in piece k or beyond.
        for one, other in pairwise(switch):
            model.rows([(1, one), (-1, other)], 0.0, np.inf)
        itself = (1.0, Terms(np.array([column]), np.zeros(1)))
        # The ends ascend, so a current beyond piece k is at least lower[k + 1], and another one at most
        # upper[k]; in the other case either row is implied by the outermost ends. These are for propagation.
        # The sums over all k then are the convex hull, for linear programs.
        for k, term in enumerate(switch):
            model.rows([itself, (lower[0] - lower[k + 1], term)], lower[0], np.inf)
            model.rows([itself, (upper[k] - upper[-1], term)], -np.inf, upper[k])
        for ends, lowest, highest in ((lower, lower[0], np.inf), (upper, -np.inf, upper[0])):
            rises = zip(-np.diff(ends), switch, strict=True)
            model.rows([itself, *((rise, term) for rise, term in rises)], lowest, highest)
        counts[:, neuron] = trains.counts[:, reached[0]]
        more = np.diff(trains.counts[:, reached], axis=1)
        step, which = more.nonzero()
        found.append((step, np.full(len(step), neuron), beyond[which], more[step, which]))
    return _sums(found, counts)


def _define(
    model: Model, sums: Sums, coupled: _Coupled, t: int, rows: Places, column: Places, slack: Vector | float
) -> None:
    """Rows for variables that are the cumulative currents of undecided neurons ``rows`` at step t."""
    # The sum over steps of W s + b is W (sum of s) + t b, up to the slack.
    matrix = coupled.link.matrix[rows]
    shift = matrix @ sums.constant[t] + (t + 1) * coupled.link.bias[rows]
    itself = csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), column)), shape=(len(rows), model.size))
    model.block(matrix @ sums.matrix(t, model.size) - itself, -shift - slack, -shift + slack)


def _counted(model: Model, sums: Sums, coupled: _Coupled, layer: CountedLayer) -> Sums:
    """Counts of neurons in terms of their cumulative currents."""
    threshold, _, initial, _, offset = (
        array(value.expand_as(layer.scan.counts.lower[:1]))[0, coupled.neurons]
        for value in layer.dynamics.numbers()
    )
    low, high = (array(end)[:, coupled.neurons] for end in layer.scan.counts)
    least, most = (array(end)[:, coupled.neurons] for end in layer.driven_by)
    size = np.abs(threshold) + np.abs(initial) + layer.steps * np.abs(offset)
    # The second term covers the float64 rounding of `needed`.
    error = coupled.lost + 2.0**-50 * size
    if layer.scan.error is not None:
        error = error + array(layer.scan.error)[:, coupled.neurons]
    columns = np.full((layer.steps, layer.steps, len(coupled.neurons)), -1)

    def reached(t: int, n: int, some: Places) -> Terms:
        """``1[N_t >= n]``, steps counted from 0."""
        if t < 0 or n <= 0:
            return Terms(np.full(len(some), -1), np.full(len(some), float(n <= 0)))
        return Terms(columns[t, n - 1, some], (low[t, some] >= n).astype(float))

    for t in range(layer.steps):
        for n in range(1, t + 2):
            # Up to low, N_t >= n is known to hold; above high, not to.
            open_ = ((low[t] < n) & (n <= high[t])).nonzero()[0]
            columns[t, n - 1, open_] = model.switches(len(open_))
        before = (low[t - 1] < high[t - 1]) if t else np.zeros(low.shape[1], dtype=bool)
        some = (before | (low[t] < high[t])).nonzero()[0]
        e = ENLARGED * error[t, some]
        floor, ceiling = least[t, some] - e, most[t, some] + e
        charge = model.variables(floor, ceiling, False)
        _define(model, sums, coupled, t, some, charge, 0.0)
        for n in range(1, t + 2):
            now, same, fewer = reached(t, n, some), reached(t - 1, n, some), reached(t - 1, n - 1, some)
            # Counts never fall, and rise by at most one in a step.
            model.rows([(1, now), (-1, same)], 0.0, np.inf)
            model.rows([(1, now), (-1, fewer)], -np.inf, 0.0)
            needed = threshold[some] - initial[some] - offset[some] * (n - 1)
            itself = (1.0, Terms(charge, np.zeros(len(some))))
            # The n-th spike comes now (now = 1, same = 0): the executed membrane reached the threshold, so
            # C >= needed - e. Otherwise `room` lowers the row to the bound of C, and it says nothing.
            room = (needed - e - floor).clip(0)
            model.rows([itself, (-room, now), (room, same)], needed - e - room, np.inf)
            # n - 1 spikes before and no more now (now = 0, fewer = 1): the membrane stayed below, so
            # C <= needed + e. Otherwise `room` raises the row to the bound of C.
            room = (ceiling - needed - e).clip(0)
            model.rows([itself, (-room, now), (room, fewer)], -np.inf, needed + e + room)
    step, place, which = (columns >= 0).nonzero()
    entries = (step, coupled.neurons[which], columns[step, place, which], np.ones(len(step)))
    return _sums([entries], array(layer.scan.counts.lower))


def _sums(entries: Sequence[tuple[Places, Places, Places, Vector]], constant: Vector) -> Sums:
    numbers = [
        np.concatenate([np.empty(0, dtype=np.int64), *(part[k] for part in entries)]) for k in range(3)
    ]
    step, place, column = (part.astype(np.int64) for part in numbers)
    value = np.concatenate([np.empty(0), *(part[3] for part in entries)])
    return Sums(step, place, column, value, constant, np.zeros_like(constant))
