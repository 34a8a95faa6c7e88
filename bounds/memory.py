"""What a backward pass will take, known before it runs, so that it is cut into pieces that fit."""

from __future__ import annotations

from typing import final

from torch import Tensor

TEMPORARIES = 8
"""How many tensors of a layer's coefficients are alive at a time, counted generously."""


@final
class OverBudget(ValueError):
    """Not even the least piece of a backward pass fits into the memory budget."""


def rows_that_fit(row: int, memory: int) -> int:
    """How many rows (or samples) fit at a time.

    Args:
        row: bytes of the coefficients of one, of all layers that are alive together.
        memory: bytes that there are.

    Raises:
        OverBudget: if not one fits.
    """
    if TEMPORARIES * row > memory:
        raise OverBudget(_too_little(TEMPORARIES * row, memory))
    return memory // max(TEMPORARIES * row, 1)


def packed(sizes: Tensor, memory: int, most: int) -> list[Tensor]:
    """Samples in groups that fit, those of like size together: positions, ascending in each group.

    Args:
        sizes: bytes that each sample takes, ``[B]``; in a group each takes as much as its largest.
        memory: bytes that there are.
        most: samples of a group.

    Raises:
        OverBudget: if a sample does not fit alone.
    """
    order = sizes.argsort(stable=True)
    groups: list[Tensor] = []
    start = 0
    for end, size in enumerate(sizes[order].tolist(), 1):
        if size > memory:
            raise OverBudget(_too_little(size, memory))
        if (end - start) * size > memory or end - start > most:
            groups.append(order[start : end - 1])
            start = end - 1
    groups.append(order[start:])
    return [group.sort().values for group in groups if len(group)]


def _too_little(least: float, memory: int) -> str:
    return (
        f"the least piece of a backward pass takes {least / 2**20:.1f} MiB, and the memory budget is "
        f"{memory / 2**20:.1f} MiB; raise it (--memory)"
    )
