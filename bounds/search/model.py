"""A system of linear constraints as it is written down: variables, and rows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse import vstack as stacked

from certsnn.bounds.memory import TEMPORARIES, OverBudget
from certsnn.bounds.search.constraints import Box, Constraints, Vector
from certsnn.bounds.search.sums import Places


class Terms(NamedTuple):
    """Variables by number ``column [R]``, or constants where that is negative."""

    column: Places
    constant: Vector


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

    def check_memory(self, memory: int, entries: int) -> None:
        """Raise OverBudget if the rows so far need more memory, with the temporaries of propagation.

        ``entries``: coefficients that there are beside the rows.
        """
        needed = TEMPORARIES * 16 * sum(block.nnz for block in self._blocks) + 32 * entries
        if needed > memory:
            raise OverBudget(
                f"the constraints of one sample take {needed / 2**20:.1f} MiB, and the memory budget is "
                f"{memory / 2**20:.1f} MiB; raise it (--memory)"
            )
