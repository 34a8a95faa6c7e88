r"""Branch and bound on spike counts: is there an input for which the margin is not positive?

Around one sample the network is a system of linear constraints on integers (`search.encoding`). With one row
more, ``margin <= 0``, a margin is proved by showing that nothing fulfils them: the box of all
variables is narrowed by propagation, refuted by the multipliers of a linear program, or cut in two at a
binary one, the most influential on the margin first. S-IBP takes every neuron at its own worst case; the
search finds that some of these exclude each other. On networks trained by S-IBP it often takes
propagation alone: the margin can only be lost if nearly all neurons are at their worst, which fixes their
counts, so the currents that they need, so the counts of the layer before, and so on back to the input. See
docs/theory/branch-and-bound.md.

Rounding is always covered, also where it is left out elsewhere: a system of constraints that holds but for
rounding errors can be empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from certsnn.bounds.interval import propagate as ibp
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import margin_forms
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.bounds.search.constraints import Box, Constraints, Vector
from certsnn.bounds.search.encoding import ENLARGED, encode, takes
from certsnn.products import ieee_products

PROVED = 2.0**-20
"""The margin that is proved: more than nothing, so that a tie is not certified."""
PROPAGATED, PROGRAMS = 64, 8
"""Boxes that are tried by propagation alone, and then, from the start, with a linear program each."""
PROGRAM_SECONDS = 5.0
"""A linear program that takes longer says nothing."""
CLOSE = 1e-6
"""Added to a number's distance from the integers, so that weights decide where all are integers."""


def proved_margins(problem: Problem, found: Tensor, options: BoundOptions) -> Tensor:
    """Margins ``[B, K-1]``, those that are not positive raised to `PROVED` where a search proves them.

    A sample's rivals are tried from the least margin on, up to the first that can't be proved: the sample
    stays undecided then. Networks that a search is not for are left as they are (`encoding.takes`).

    Raises:
        OverBudget: if the constraints of a sample need more memory than there is.
    """
    if not takes(problem.program):
        return found
    with torch.no_grad():
        rigorous = problem.arithmetic if problem.arithmetic.unit else RIGOROUS
        covered = replace(problem, arithmetic=rigorous).groups(1)
        rows = [_improved(part, row, options) for part, row in zip(covered, found.detach(), strict=True)]
    return torch.stack(rows) if rows else found


def _improved(problem: Problem, found: Tensor, options: BoundOptions) -> Tensor:
    found = found.clone()
    rivals = [int(rival) for rival in found.argsort() if not found[rival] > 0]
    executed = executed_margins(problem, problem.x0)
    if not rivals or not (executed > 0).all():
        return found
    system = System(problem, ibp.propagate(problem, feasible_flips), options)
    for rival in rivals:
        if options.late() or not system.proves(rival):
            break
        found[rival] = PROVED
    return found


def executed_margins(problem: Problem, x: Tensor) -> Tensor:
    """``[K-1]``: the margins of one sample's input as executed."""
    with ieee_products():
        logits = problem.program.run(x)[0]
    own, rivals = problem.y[0], ibp.others(problem.y, len(logits))[0]
    return logits[own] - logits[rivals]


@final
class Lost(Exception):
    """An input of the set loses the margin as executed: there is nothing to prove."""


@final
class System:
    """The constraints of one sample, and the search that refutes them together with a margin that is lost."""

    def __init__(self, problem: Problem, sources: Sequence[Source], options: BoundOptions) -> None:
        self._problem, self._options = problem, options
        self._model, self._last, self._inputs = encode(problem, sources, options.memory)
        forms = margin_forms(problem, ibp.last_mean(problem, sources))
        # The same at each step, so forms of sums: over all steps, or of the one frame of held values.
        coefficients = forms.coefficients[:, 0, 0].flatten(1)
        self._step = forms.coefficients.shape[1] - 1
        # Sums of this many terms in float64, which are relative to 2^24 times the error at most.
        lost = forms.error * (1 + coefficients.shape[1] * 2.0**-26)
        self._coefficients = coefficients.double().cpu().numpy()
        # What the readout takes is off, too.
        before = ENLARGED * np.abs(self._coefficients) @ self._last.lost[self._step]
        self._constants = (forms.constant - lost)[:, 0].cpu().numpy() - before

    def proves(self, rival: int) -> bool:
        """Whether the margin over this rival is at least `PROVED` (as executed, on the whole set)."""
        a, last = self._coefficients[rival], self._last
        row = csr_matrix(a @ last.matrix(self._step, self._model.size))
        # T times the executed margin is at least a N + constant, less the rounding: if no point of the box
        # has a N + constant <= T PROVED, the margin is above PROVED.
        most = self._problem.steps * PROVED - self._constants[rival] - a @ last.constant[self._step]
        constraints = self._model.constraints(row, most)
        box = constraints.propagated(self._model.box)
        if box is None:
            return True
        influence = np.abs(row.toarray()[0])
        # Where no count of the last layer is left, what enters many rows strongly comes first.
        weights = influence + 1e-6 * influence.max(initial=1.0) * constraints.weight
        late = self._options.late

        def by_program(box: Box) -> Vector | None:
            return self._relaxed(constraints, box, rival)

        try:
            return closed(constraints, box, weights, _middle, PROPAGATED, late) or closed(
                constraints, box, weights, by_program, PROGRAMS, late
            )
        except Lost:
            return False

    def _relaxed(self, constraints: Constraints, box: Box, rival: int) -> Vector | None:
        """The solution of the box's linear program; None if its multipliers refute the box."""
        seconds = min(PROGRAM_SECONDS, max(self._options.deadline - time.monotonic(), 0.01))
        found = constraints.least_violation(box, seconds)
        if found is None:
            return _middle(box)
        if constraints.refuted(box, found.multipliers):
            return None
        # A member of the set that loses the margin is a counterexample: no search can prove it.
        if executed_margins(self._problem, self._input(found.point))[rival] <= 0:
            raise Lost
        return found.point

    def _input(self, point: Vector) -> Tensor:
        """The member of the set that is next to a point's inputs."""
        x0, input_set = self._problem.x0, self._problem.input_set
        x = x0.flatten().double().cpu().numpy()
        free = self._inputs >= 0
        x[free] = point[self._inputs[free]]
        return input_set.project(x0, torch.from_numpy(x).to(x0).view_as(x0))


def _middle(box: Box) -> Vector:
    return (box.lower + box.upper) / 2


def closed(
    constraints: Constraints,
    box: Box,
    weights: Vector,
    examine: Callable[[Box], Vector | None],
    boxes: int,
    late: Callable[[], bool],
) -> bool:
    """Whether a depth-first search shows that no point of the box fulfils the constraints.

    Args:
        constraints: the rows to be refuted.
        box: propagated already.
        weights: ``[n]``, >= 0: how soon to branch at a variable.
        examine: a point of the box that says which numbers are far from integers; None if it is refuted.
        boxes: how many are examined at most.
        late: whether to give up.
    """
    stack = [box]
    for _ in range(boxes):
        if not stack or late():
            break
        box = stack.pop()
        point = examine(box)
        if point is None:
            continue
        free = (constraints.integer & (box.lower < box.upper)).nonzero()[0]
        if not len(free):
            return False
        distance = np.abs(point[free] - np.round(point[free]))
        chosen = free[np.argmax(weights[free] * (distance + CLOSE))]
        halves = (constraints.propagated(half) for half in _halves(box, chosen))
        # The half that is fixed more is examined first.
        stack += sorted((half for half in halves if half is not None), key=_freedom, reverse=True)
    return not stack


def _halves(box: Box, chosen: int) -> tuple[Box, Box]:
    """The box with an integer variable in the lower and in the upper half of its numbers."""
    # An integer is at most the floor of the middle, or at least one more: nothing lies between the halves.
    middle = np.floor((box.lower[chosen] + box.upper[chosen]) / 2)
    upper, lower = box.upper.copy(), box.lower.copy()
    upper[chosen], lower[chosen] = middle, middle + 1
    return Box(box.lower, upper), Box(lower, box.upper)


def _freedom(box: Box) -> int:
    return int((box.lower < box.upper).sum())
