"""Margins from bounds of the layers: by interval arithmetic, or by one backward pass."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import singledispatch
from itertools import pairwise

import torch
from torch import Tensor

from certsnn.bounds.interval import propagate as ibp
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import Forms, Whole, chain, lower, margin_forms
from certsnn.bounds.linear.levels import levels_of
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.readouts import Mean, Readout

EVERY = sys.maxsize
"""All rivals at a time."""


def interval_bounds(problem: Problem) -> tuple[Tensor, list[Source]]:
    """S-IBP's margins ``[B, K-1]``, and its bounds of all values."""
    return ibp.interval_margins(problem, feasible_flips)


def backward_margins(
    problem: Problem, sources: Sequence[Source], relaxation: Relaxation, rows: int = EVERY
) -> Tensor:
    """Margins ``[B, K-1]`` from backward passes over bounds of all values, in pieces of so many rows."""
    levels = levels_of(problem, sources, relaxation)[: problem.program.readout.source]
    entry = Whole(problem.x0, problem.input_set)

    def bound(forms: Forms) -> Tensor:
        parts = zip(*(part.split(rows) for part in forms), strict=True)
        return torch.cat([lower(entry, levels, Forms(*part)) for part in parts])

    return form_margins(problem.program.reading, problem, sources, bound)


@singledispatch
def form_margins(
    reading: Readout, problem: Problem, sources: Sequence[Source], bound: Callable[[Forms], Tensor]
) -> Tensor:
    """Lower bounds ``[B, K-1]`` of the margins, made of linear forms; register a function to add a readout.

    Args:
        reading: the readout.
        problem: the network and the batch.
        sources: bounds of all values.
        bound: lower bounds ``[S, B]`` of forms ``[S, F, B, ...]`` of what the readout takes.

    Raises:
        TypeError: for a readout that has no linear forms.
    """
    raise TypeError(f"S-CROWN has no backward pass for the readout {type(reading).__name__}")


@form_margins.register
def _(reading: Mean, problem: Problem, sources: Sequence[Source], bound: Callable[[Forms], Tensor]) -> Tensor:
    return bound(margin_forms(problem, ibp.last_mean(problem, sources))).T / problem.steps


def in_groups(problem: Problem, options: BoundOptions, bound: Callable[[Problem, int], Tensor]) -> Tensor:
    """A bound of all samples: as many at a time, and so many rivals of each, as the memory allows."""
    rivals = problem.classes - 1
    rows = rows_that_fit(row_bytes(problem), options.memory)
    size = max(rows // rivals, 1)
    if size >= len(problem.y):
        return bound(problem, rows)
    return torch.cat([bound(part, rows) for part in problem.groups(size)])


def row_bytes(problem: Problem) -> int:
    """Bytes of one row of coefficients for one sample.

    These are those of two neighbouring operators' outputs, and of values that wait for other links.
    """
    program, arithmetic = problem.program, problem.arithmetic
    values = program.values(problem.x0.narrow(program.input.batch_axis, 0, 0), steps=1)
    links = [link for node in program.nodes for link in node.links]
    taken = Counter(link.source for link in links)
    waiting = sum(values[source].shape[2:].numel() for source, times in taken.items() if times > 1)
    widest = 0
    for link in links:
        found = chain(link.operators, values[link.source][0], arithmetic)
        sizes = [values[link.source].shape[2:].numel(), *(shape.numel() for shape in found.shapes[1:])]
        sizes.append(found.outputs.numel())
        widest = max(widest, *(one + other for one, other in pairwise(sizes)))
    return arithmetic.raised(problem.x0[:0]).element_size() * problem.steps * (widest + waiting)
