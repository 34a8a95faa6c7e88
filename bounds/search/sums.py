"""Values summed over time as affine functions of the variables of a search, and how links carry them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity
from scipy.sparse import vstack as stacked
from torch import Tensor

from certsnn.bounds.linear.backward import PIECE, Chain
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.search.constraints import Vector

Places = NDArray[np.int64]


class Sums(NamedTuple):
    """The values of a node (or the input), summed over steps 1..t, as affine functions of the variables.

    The sum at (step, place) has the coefficient ``value`` on the variable ``column``; entries of the same
    three add up. ``constant [T, n]``; ``lost [T, n]``: how far the executed sum may be from the function.
    """

    step: Places
    place: Places
    column: Places
    value: Vector
    constant: Vector
    lost: Vector

    def matrix(self, t: int, variables: int) -> csr_matrix:
        """The coefficients ``[n, variables]`` at step t (from 0)."""
        now = self.step == t
        shape = (self.constant.shape[1], variables)
        return csr_matrix((self.value[now], (self.place[now], self.column[now])), shape=shape)


class Linked(NamedTuple):
    """The affine operators of a link as a matrix: outputs ``matrix x + bias``, ``[u, n]`` and ``[u]``."""

    matrix: csr_matrix
    bias: Vector


def array(values: Tensor) -> Vector:
    """A tensor ``[F, 1, ...]`` of one sample as ``[F, n]``, in float64."""
    found: Vector = values.detach()[:, 0].flatten(1).double().cpu().numpy()
    return found


def linked(link: Chain, places: Tensor, like: Tensor, memory: int) -> Linked:
    """The outputs of a link at ``places [u]``; ``like``: of the dtype and on the device of the bounds.

    Raises:
        OverBudget: if not one row of the matrix fits into the memory.
    """
    count = link.outputs.numel()
    inputs = link.shapes[0].numel() if link.operators else count
    fitting = rows_that_fit(8 * (count + inputs), memory)
    if not link.operators:
        chosen = places.cpu().numpy()
        return Linked(identity(count, format="csr")[chosen], np.zeros(len(chosen)))
    blocks, biases = [], []
    for part in places.split(min(PIECE, fitting)):
        pulled = link.rows(part, like)
        blocks.append(csr_matrix(array(pulled.coefficients.flatten(2))))
        biases.append(pulled.constant[:, 0].cpu().numpy())
    return Linked(stacked(blocks, format="csr"), np.concatenate(biases))


def carried(sums: Sums, link: Linked, variables: int) -> Sums:
    """The outputs of a link, of these values; exact, but for what the values have lost before."""
    steps = len(sums.constant)
    found = [(link.matrix @ sums.matrix(t, variables)).tocoo() for t in range(steps)]
    step = np.repeat(np.arange(steps), [part.nnz for part in found])
    place, column, value = (
        np.concatenate([getattr(part, name) for part in found]) for name in ("row", "col", "data")
    )
    # The sum over steps of W s + b is W (sum of s) + t b.
    constant = (link.matrix @ sums.constant.T).T + np.arange(1, steps + 1)[:, None] * link.bias
    lost = (abs(link.matrix) @ sums.lost.T).T
    return Sums(step, place.astype(np.int64), column.astype(np.int64), value, constant, lost)


def added(parts: Sequence[Sums], lost: Vector) -> Sums:
    """The sum of several; ``lost [T, n]``: by the executed additions, and what led to the parts."""
    constant, before = (sum(values[1:], values[0]) for values in list(zip(*parts, strict=True))[4:])
    return Sums(*_entries(parts), constant, before + lost)


def beside(parts: Sequence[Sums], lost: Vector) -> Sums:
    """Several side by side; ``lost [T, n]``: by what led to the parts."""
    starts = np.cumsum([0] + [part.constant.shape[1] for part in parts])
    moved = [part._replace(place=part.place + start) for part, start in zip(parts, starts, strict=False)]
    constant, before = (np.concatenate(values, 1) for values in list(zip(*parts, strict=True))[4:])
    return Sums(*_entries(moved), constant, before + lost)


def _entries(parts: Sequence[Sums]) -> tuple[Places, Places, Places, Vector]:
    """The entries of all of them."""
    step, place, column, value = (np.concatenate(values) for values in list(zip(*parts, strict=True))[:4])
    return step, place, column, value
