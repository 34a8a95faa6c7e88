"""What a backward pass will take, known before it runs, so that it is cut into pieces that fit."""

from __future__ import annotations

TEMPORARIES = 8
"""How many tensors of a layer's coefficients are alive at a time, counted generously."""


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
        raise OverBudget(
            f"the least piece of a backward pass takes {TEMPORARIES * row / 2**20:.1f} MiB, and the memory "
            f"budget is {memory / 2**20:.1f} MiB; raise it (--memory)"
        )
    return memory // max(TEMPORARIES * row, 1)
