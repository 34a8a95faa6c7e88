"""Chains of affine operators."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from certsnn.affine.base import Affine
from certsnn.affine.diagonal import Diagonal
from certsnn.affine.weighted import Weighted


def fold(operators: Sequence[Affine]) -> tuple[Affine, ...]:
    """The same chain with each `Diagonal` after a `Weighted` operator folded into its weights."""
    folded: list[Affine] = []
    for operator in operators:
        previous = folded[-1] if folded else None
        if isinstance(operator, Diagonal) and isinstance(previous, Weighted) and previous.fits(operator):
            folded[-1] = previous.rescaled(operator.scale, operator.shift)
        else:
            folded.append(operator)
    return tuple(folded)


def apply_chain(operators: Sequence[Affine], x: Tensor) -> Tensor:
    """The operators one after the other on a batch ``[N, ...]``."""
    for operator in operators:
        x = operator.apply(x)
    return x
