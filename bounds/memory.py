"""What bounds will take, known before they run, so that they are cut into pieces that fit."""

from __future__ import annotations

from typing import final

from torch import Tensor

from certsnn.bounds.problem import Problem
from certsnn.program import Program

TEMPORARIES = 8
"""How many tensors of a layer's coefficients are alive at a time, counted generously."""
KEPT, PASSING = 8, 10
"""Numbers that S-IBP keeps for each value of a network, and has for each of its largest layer while it is
there. Counted generously: most were measured at two thirds of it."""


@final
class OverBudget(ValueError):
    """Not even the least piece of the work fits into the memory budget."""


def interval_bytes(program: Program, x0: Tensor, number: int) -> int:
    """Bytes that S-IBP takes for each sample of a batch like x0, in numbers of so many bytes each."""
    values = program.values(x0.narrow(program.input.batch_axis, 0, 0), steps=1)
    sizes = [frames.shape[2:].numel() for frames in values]
    steps = program.input.frames(x0, None)[1]
    return number * steps * (KEPT * sum(sizes) + PASSING * max(sizes))


def intervals_that_fit(problem: Problem, memory: int) -> list[Problem]:
    """The problem in pieces whose interval bounds fit; raises OverBudget if not one sample does."""
    samples = len(problem.y)
    number = problem.arithmetic.raised(problem.x0[:0]).element_size()
    one = interval_bytes(problem.program, problem.x0, number) if samples else 0
    if one > memory:
        raise OverBudget(_too_little(one, memory))
    return [problem] if samples * one <= memory else problem.groups(memory // one)


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
        f"the least piece of the work takes {least / 2**20:.1f} MiB, and the memory budget is "
        f"{memory / 2**20:.1f} MiB; raise it (--memory)"
    )
