r"""Linear constraints on bounded variables, some of them integers, and rigorous proofs that nothing fits.

Two arguments narrow a box of variables down, or show that no point of it fulfils ``lower <= A x <= upper``:

- **Propagation.** With all other variables at their best, a row leaves room for each of its variables:
  ``a_j x_j <= upper - min(sum of the other terms)``. Integers are rounded inwards. Repeated until little
  changes (Savelsbergh, *Preprocessing and probing techniques for mixed integer programming problems*, 1994).
- **Multipliers.** For any y, every x that fulfils the rows has ``y . A x >= sum of y_k lower_k where y_k > 0,
  y_k upper_k elsewhere``. If the greatest value of the left side over the box is below that, there is no such
  x (Farkas). The multipliers come from a linear program, that of the least total violation; whatever they
  are, the comparison is a proof (Neumaier and Shcherbina, *Safe bounds in linear and mixed-integer linear
  programming*, 2004).

**Rounding.** Both are computed in float64. A sum of n products is off by at most ``n 2^-53`` times the sum of
their magnitudes (to first order); twice that is taken off, with some terms more for what follows. Constraints
are taken as they stand: the errors of their own coefficients are for whoever writes them down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity, vstack

Vector = NDArray[np.float64]
UNIT = 2.0**-53
FURTHER = 8
"""Operations that follow a sum, counted generously."""
TINY = 1e-280
"""More than a sum loses to underflow."""
ROUNDS = 50
"""The most rounds of propagation: the box after any round is sound."""
LITTLE = 1e-3
"""It also ends when no variable loses this share of its width."""
LOOSE = 2.0**-40
"""More, relatively, than the rounding of the last operations on a bound."""


class Box(NamedTuple):
    """Bounds ``[n]`` of all variables, finite."""

    lower: Vector
    upper: Vector


class LeastViolation(NamedTuple):
    """A point ``[n]``, and multipliers ``[rows]`` that may prove that there is none without violation."""

    point: Vector
    multipliers: Vector


@final
@dataclass(frozen=True)
class Constraints:
    """Rows ``lower <= matrix x <= upper`` (infinite where open); ``integer [n]``: which x are integers."""

    matrix: csr_matrix
    lower: Vector
    upper: Vector
    integer: NDArray[np.bool_]

    @cached_property
    def _magnitude(self) -> csr_matrix:
        return abs(self.matrix)

    @cached_property
    def _signs(self) -> tuple[csr_matrix, csr_matrix]:
        return self.matrix.maximum(0).tocsr(), self.matrix.minimum(0).tocsr()

    @cached_property
    def _entries(self) -> tuple[NDArray[Any], NDArray[Any], Vector, NDArray[Any], NDArray[Any]]:
        """Row, column and value of every entry, by column; where columns begin, and which they are."""
        entries = self.matrix.tocsc()
        entries.eliminate_zeros()
        columns = np.repeat(np.arange(entries.shape[1]), np.diff(entries.indptr))
        starts = entries.indptr[:-1][np.diff(entries.indptr) > 0]
        return entries.indices, columns, entries.data, starts, columns[starts]

    @cached_property
    def _sizes(self) -> Vector:
        """Magnitudes of the finite ends of the rows."""
        low, high = (np.where(np.isfinite(end), np.abs(end), 0.0) for end in (self.lower, self.upper))
        found: Vector = np.maximum(low, high)
        return found

    @cached_property
    def _terms(self) -> NDArray[Any]:
        found: NDArray[Any] = np.diff(self.matrix.indptr) + FURTHER
        return found

    def _activities(self, box: Box) -> tuple[Vector, Vector]:
        """The least and the greatest value of every row."""
        positive, negative = self._signs
        # A term a x is least at the lower bound of x where a > 0, at the upper bound where a < 0.
        least = positive @ box.lower + negative @ box.upper
        most = positive @ box.upper + negative @ box.lower
        return least, most

    @property
    def weight(self) -> Vector:
        """How much each variable enters the rows, ``[n]``, relative to the one that does most."""
        sums = np.asarray(self._magnitude.sum(0)).flatten()
        found: Vector = sums / sums.max(initial=1.0)
        return found

    def beyond(self, box: Box) -> Constraints:
        """The rows that not all of the box fulfils; to leave a row out is sound."""
        least, most = self._activities(box)
        open_ = (least < self.lower) | (most > self.upper)
        return Constraints(self.matrix[open_], self.lower[open_], self.upper[open_], self.integer)

    def propagated(self, box: Box) -> Box | None:
        """A part of the box that holds all of its points that fulfil the rows; None if there are none."""
        row, column, value, starts, touched = self._entries
        if not len(value):
            return None if ((self.lower > 0) | (self.upper < 0)).any() else box
        whole = self.integer[touched]
        for _ in range(ROUNDS):
            least, most = self._activities(box)
            size = self._magnitude @ np.maximum(np.abs(box.lower), np.abs(box.upper)) + self._sizes
            error = 2 * UNIT * self._terms * size + TINY
            # A row whose least value exceeds its upper end holds nowhere in the box.
            if (least - error > self.upper).any() or (most + error < self.lower).any():
                return None
            low, high = value * box.lower[column], value * box.upper[column]
            falls = value < 0
            above = (self.upper + error)[row] - (least[row] - np.where(falls, high, low))
            below = (self.lower - error)[row] - (most[row] - np.where(falls, low, high))
            # a x <= above: dividing by a < 0 turns it into a lower bound of x.
            above, below = above / value, below / value
            upper = np.minimum.reduceat(np.where(falls, below, above), starts)
            lower = np.maximum.reduceat(np.where(falls, above, below), starts)
            # LOOSE moves a bound outwards by more than the last operations rounded, so that no integer on
            # it is lost; then the bound moves inwards to the next integer, as none lies between.
            upper = np.where(
                whole, np.floor(upper + LOOSE * (1 + np.abs(upper))), upper + LOOSE * np.abs(upper)
            )
            lower = np.where(
                whole, np.ceil(lower - LOOSE * (1 + np.abs(lower))), lower - LOOSE * np.abs(lower)
            )
            before = Box(box.lower[touched], box.upper[touched])
            lower, upper = np.maximum(lower, before.lower), np.minimum(upper, before.upper)
            if (lower > upper).any():
                return None
            box = Box(box.lower.copy(), box.upper.copy())
            box.lower[touched], box.upper[touched] = lower, upper
            width = before.upper - before.lower
            if not (width - (upper - lower) > LITTLE * width).any():
                break
        return box

    def refuted(self, box: Box, multipliers: Vector) -> bool:
        """Whether multipliers ``[rows]``, of any origin, prove that no point of the box fulfils the rows."""
        # Every x that fulfils the rows has y (A x) >= y lower for y > 0, and >= y upper for y < 0. A row
        # without that end is left out (y = 0).
        ends = np.where(multipliers > 0, self.lower, self.upper)
        weights = np.where(np.isfinite(ends), multipliers, 0.0)
        needed = weights * np.where(np.isfinite(ends), ends, 0.0)
        form = self.matrix.T @ weights
        most = np.maximum(form * box.lower, form * box.upper)
        reach = np.maximum(np.abs(box.lower), np.abs(box.upper))
        size = np.abs(needed).sum() + (self._magnitude.T @ np.abs(weights) * reach).sum()
        error = 2 * UNIT * (sum(self.matrix.shape) + FURTHER) * size + TINY
        # Such an x in the box has needed <= y . A x <= most; needed > most, beyond rounding, excludes it.
        return bool(needed.sum() - most.sum() > error)

    def least_violation(self, box: Box, seconds: float) -> LeastViolation | None:
        """The point of the box (of real numbers) that violates the rows least in total; None if not found."""
        least, most = self._activities(box)
        above, below = np.flatnonzero(most > self.upper), np.flatnonzero(least < self.lower)
        if not len(above) + len(below):
            return LeastViolation(box.lower, np.zeros(len(self.lower)))
        free = np.flatnonzero(box.lower < box.upper)
        fixed = np.where(box.lower < box.upper, 0.0, box.lower)
        rest = self.matrix @ fixed
        wanted = vstack([self.matrix[above], -self.matrix[below]], format="csr")[:, free]
        count = len(above) + len(below)
        ends = np.concatenate([(self.upper - rest)[above], (rest - self.lower)[below]])
        found = linprog(
            np.concatenate([np.zeros(len(free)), np.ones(count)]),
            hstack([wanted, -identity(count)], format="csr"),
            ends,
            bounds=[*zip(box.lower[free], box.upper[free], strict=True), *[(0.0, None)] * count],
            method="highs-ds",
            options={"time_limit": seconds},
        )
        if found.status != 0:
            return None
        multipliers = np.zeros(len(self.lower))
        np.add.at(multipliers, above, found.ineqlin.marginals[: len(above)])
        np.subtract.at(multipliers, below, found.ineqlin.marginals[len(above) :])
        point = fixed
        point[free] = found.x[: len(free)]
        return LeastViolation(point, multipliers)
