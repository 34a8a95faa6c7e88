"""Rows that keep the input's variables within the budget of an input set."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from certsnn.bounds.search.constraints import Vector
from certsnn.bounds.search.model import Model, Terms
from certsnn.bounds.search.sums import Places
from certsnn.inputsets import EventChanges


def restrict_flips(model: Model, x0: Vector, inputs: Places, budget: int) -> None:
    """A row for at most so many flips; arguments as `BoundSupport.restrict`."""
    # x (1 - 2 x0) + x0 is 1 exactly where x differs from x0, and at most `budget` bits do.
    free = inputs >= 0
    sign, column = 1 - 2 * x0[free], inputs[free]
    row = csr_matrix((sign, (np.zeros(len(column), dtype=int), column)), shape=(1, model.size))
    model.block(row, np.array([-np.inf]), np.array([budget - x0[free].sum()]))


def restrict_moves(model: Model, x0: Vector, inputs: Places, moved: int) -> None:
    """Rows for at most so many spikes that are moved in time; arguments as `BoundSupport.restrict`."""
    # A bit loses its spike only by a move, and there are at most `moved`; every pixel keeps its number of
    # spikes.
    free = inputs >= 0
    gone, (_, pixel) = free & (x0 == 1), free.nonzero()
    column = inputs[gone]
    row = csr_matrix(
        (-np.ones(len(column)), (np.zeros(len(column), dtype=int), column)), shape=(1, model.size)
    )
    model.block(row, np.array([-np.inf]), np.array([moved - gone.sum()]))
    kept, number = np.unique(pixel, return_inverse=True)
    rows = csr_matrix((np.ones(len(pixel)), (number, inputs[free])), shape=(len(kept), model.size))
    total = np.where(free, x0, 0).sum(0)[kept]
    model.block(rows, total, total)


def restrict_events(model: Model, x0: Vector, inputs: Places, changes: EventChanges) -> None:
    """Rows for at most so many events that are added or removed; arguments as `BoundSupport.restrict`."""
    free = inputs >= 0
    column, start = inputs[free], x0[free]
    one = np.ones(len(column))
    sign = {"add": one, "drop": -one, "any": one * (start == 0)}[changes.kind]
    # An entry that goes one way has changed by sign (x - x0); one that may go either way by at least each
    # of x - x0 and x0 - x, so by at most a variable that is above both.
    both = sign == 0
    size = model.variables(np.zeros(both.sum()), np.full(both.sum(), float(changes.budget)), False)
    for side in (1.0, -1.0):
        terms = [(1.0, Terms(size, np.zeros(len(size)))), (-side, Terms(column[both], np.zeros(len(size))))]
        model.rows(terms, -side * start[both], np.inf)
    values = np.concatenate([sign[~both], np.ones(len(size))])
    places = np.concatenate([column[~both], size])
    row = csr_matrix((values, (np.zeros(len(places), dtype=int), places)), shape=(1, model.size))
    model.block(row, np.array([-np.inf]), np.array([changes.budget + sign @ start]))
