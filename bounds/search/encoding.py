r"""One sample's integrate-and-fire network as linear constraints on integers, exact up to rounding.

For neurons that conserve charge, the count ``N_t`` of spikes so far depends on the cumulative currents C
alone (`interval.scans`). With binary variables ``y_{t,n} = 1[N_t >= n]``, so ``N_t = sum_n y_{t,n}``,

.. math:: y_{t,n} = 1 \iff y_{t-1,n} = 1 \text{ or } (y_{t-1,n-1} = 1 \text{ and }
          C_t \ge threshold - initial - offset (n - 1)).

Both directions are linear, with the bounds of ``C_t`` where a constant must be large enough. With direct
encoding a first-layer neuron sees one current I, and its whole train is a function of I
(`linear.constant_current`): the binary variable ``b_k`` says that I lies in the k-th piece or beyond. Only
what S-IBP leaves undecided becomes a variable. docs/theory/branch-and-bound.md has every row.

**Rounding.** Executed currents are off by at most ``lost`` in each step, executed membranes by at most E
(`accumulated_rounding`). A spike therefore says ``C_t >= ... - e``, a silent step ``C_t <= ... + e``, with
``e_t = sum_{k <= t} lost_k + E_t``, enlarged for the float64 coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse import vstack as stacked
from torch import Tensor

from certsnn.bounds.interval.layers import CountedLayer, Source
from certsnn.bounds.linear.backward import PIECE, chain, magnitudes
from certsnn.bounds.linear.constant_current import pieces
from certsnn.bounds.memory import TEMPORARIES, OverBudget, rows_that_fit
from certsnn.bounds.problem import Problem
from certsnn.bounds.search.constraints import Box, Constraints, Vector
from certsnn.neurons import Dynamics
from certsnn.program import Neurons

Places = NDArray[np.int64]
ENLARGED = 1 + 2.0**-20


class Terms(NamedTuple):
    """Variables by number ``column [R]``, or constants where that is negative."""

    column: Places
    constant: Vector


class Sums(NamedTuple):
    """What enters a stage, summed over steps 1..t, as affine functions of the variables.

    The sum at (step, place) has the coefficient ``value`` on the variable ``column``, one entry each;
    ``constant [T, n]``.
    """

    step: Places
    place: Places
    column: Places
    value: Vector
    constant: Vector

    def matrix(self, t: int, variables: int) -> csr_matrix:
        """The coefficients ``[n, variables]`` at step t (from 0)."""
        now = self.step == t
        shape = (self.constant.shape[1], variables)
        return csr_matrix((self.value[now], (self.place[now], self.column[now])), shape=shape)


@final
class Model:
    """Variables and rows as they are collected."""

    def __init__(self) -> None:
        self.size = 0
        self._lower: list[Vector] = []
        self._upper: list[Vector] = []
        self._integer: list[NDArray[np.bool_]] = []
        self._blocks: list[csr_matrix] = []
        self._ends: list[tuple[Vector, Vector]] = []

    def variables(self, lower: Vector, upper: Vector, integer: bool) -> Places:
        """The numbers of new variables within these bounds."""
        first, self.size = self.size, self.size + len(lower)
        self._lower.append(lower)
        self._upper.append(upper)
        self._integer.append(np.full(len(lower), integer))
        return np.arange(first, self.size)

    def switches(self, count: int) -> Places:
        """New variables that are 0 or 1."""
        return self.variables(np.zeros(count), np.ones(count), True)

    def block(self, matrix: csr_matrix, lower: Vector, upper: Vector) -> None:
        """New rows ``lower <= matrix x <= upper``."""
        self._blocks.append(matrix)
        self._ends.append((lower, upper))

    def rows(
        self, terms: Sequence[tuple[Vector | float, Terms]], lower: Vector | float, upper: Vector | float
    ) -> None:
        """New rows ``lower <= sum of factor * term <= upper``; those without variables are left out."""
        columns = np.stack([term.column for _, term in terms])
        factors = np.stack([np.broadcast_to(factor, columns.shape[1:]) for factor, _ in terms])
        known = np.stack([term.constant for _, term in terms])
        shift = np.where(columns < 0, factors * known, 0.0).sum(0)
        kept = (columns >= 0).any(0)
        columns, factors = columns[:, kept], factors[:, kept]
        which, row = (columns >= 0).nonzero()
        data = factors[which, row], (row, columns[which, row])
        self.block(
            csr_matrix(data, shape=(columns.shape[1], self.size)),
            (lower - shift)[kept],
            (upper - shift)[kept],
        )

    @property
    def box(self) -> Box:
        """The bounds of all variables."""
        return Box(np.concatenate(self._lower), np.concatenate(self._upper))

    def constraints(self, row: csr_matrix, most: float) -> Constraints:
        """All rows that say more than the box, and ``row x <= most``."""
        blocks = [*self._blocks, row]
        for block in blocks:
            block.resize(block.shape[0], self.size)
        lower, upper = zip(*self._ends, (np.array([-np.inf]), np.array([most])), strict=True)
        rows = stacked(blocks, format="csr"), np.concatenate(lower), np.concatenate(upper)
        return Constraints(*rows, np.concatenate(self._integer)).beyond(self.box)

    def check_memory(self, memory: int) -> None:
        """Raise OverBudget if the rows so far, with the temporaries of propagation, need more memory."""
        needed = TEMPORARIES * 16 * sum(block.nnz for block in self._blocks)
        if needed > memory:
            raise OverBudget(
                f"the constraints of one sample take {needed / 2**20:.1f} MiB, and the memory budget is "
                f"{memory / 2**20:.1f} MiB; raise it (--memory)"
            )


def array(values: Tensor) -> Vector:
    """A tensor ``[F, 1, ...]`` of one sample as ``[F, n]``, in float64."""
    found: Vector = values.detach()[:, 0].flatten(1).double().cpu().numpy()
    return found


def encode(problem: Problem, sources: Sequence[Source], memory: int) -> tuple[Model, Sums, Places]:
    """One sample's network as constraints, from the bounds of its layers.

    Args:
        problem: one sample; its arithmetic covers rounding.
        sources: bounds of the input and of all layers, in the count domain.
        memory: bytes that the constraints may take.

    Returns:
        The constraints, the last layer's counts, and the variables of the free inputs ``[F * n]`` (-1 where
        an input is fixed).

    Raises:
        OverBudget: if the constraints need more memory.
        TypeError: if a layer is not in the count domain.
    """
    model = Model()
    sums, inputs = _inputs(model, problem)
    for number, (stage, layer) in enumerate(zip(problem.program.stages, sources[1:], strict=True)):
        if not isinstance(layer, CountedLayer):
            raise TypeError("constraints on counts need neurons that conserve charge (decay and gain 1)")
        size = magnitudes(sources[number])
        coupled = _coupled(problem, stage, layer, size, memory)
        trains = _trains(layer, stage.neuron) if problem.held[number] else None
        if trains is None:
            sums = _counted(model, sums, coupled, layer)
        else:
            sums = _held(model, sums, coupled, layer, trains)
        model.check_memory(memory)
    return model, sums, inputs


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
    return Sums(step, place[entry], column[entry], value, constant), inputs.flatten()


class _Coupled(NamedTuple):
    """The affine operators into a layer's undecided neurons ``neurons [u]``.

    ``matrix [u, n]``, ``bias [u]``, ``lost [T, u]``: how far executed currents may be from exact ones.
    """

    neurons: Places
    matrix: csr_matrix
    bias: Vector
    lost: Vector


def _coupled(problem: Problem, stage: Neurons, layer: CountedLayer, size: Tensor, memory: int) -> _Coupled:
    links = chain(stage.link.operators, size[0], problem.arithmetic)
    undecided = layer.undecided.any(0).flatten().nonzero().flatten()
    count = links.outputs.numel()
    fitting = rows_that_fit(8 * (count + size[0].numel()), memory)
    blocks, biases = [], []
    for part in undecided.split(min(PIECE, fitting)):
        pulled = links.rows(part, problem.arithmetic.raised(size[:0]))
        blocks.append(csr_matrix(array(pulled.coefficients.flatten(2))))
        biases.append(pulled.constant[:, 0].cpu().numpy())
    lost = problem.arithmetic.lost(stage.link.operators, size.flatten(0, 1)).unflatten(0, size.shape[:2])
    neurons = undecided.cpu().numpy()
    every = np.broadcast_to(array(lost), (layer.steps, count))
    return _Coupled(neurons, stacked(blocks, format="csr"), np.concatenate(biases), every[:, neurons])


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
    matrix = coupled.matrix[rows]
    shift = matrix @ sums.constant[t] + (t + 1) * coupled.bias[rows]
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
    # Errors of products add up over the steps; the second term covers the float64 rounding of `needed`.
    error = coupled.lost.cumsum(0) + 2.0**-50 * size
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
    return Sums(step, place, column, np.concatenate([np.empty(0), *(part[3] for part in entries)]), constant)
