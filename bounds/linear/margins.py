"""Margins from bounds of the layers: by interval arithmetic, or by one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from certsnn.bounds.interval import propagate as ibp
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.layers import Layer
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import (
    Constant,
    Coupling,
    Level,
    Whole,
    chain,
    lower,
    magnitudes,
    margin_forms,
    membrane_error,
)
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem


def interval_layers(problem: Problem) -> tuple[Tensor, list[Layer]]:
    """S-IBP's margins ``[B, K-1]`` and layers."""
    return ibp.interval_margins(problem, feasible_flips)


def forward_margins(problem: Problem, layers: Sequence[Layer]) -> Tensor:
    """Margins ``[B, K-1]`` from the bounds of the last layer alone."""
    rate = ibp.rates(layers[-1], problem.x0.dtype)
    return ibp.margins(problem.program.readout, rate, problem.y, problem.arithmetic)


def levels_of(problem: Problem, layers: Sequence[Layer], relaxation: Relaxation) -> list[Level]:
    """The levels of a backward pass, first to last, from the bounds of their layers."""
    levels = []
    arithmetic = problem.arithmetic
    for number, (stage, layer) in enumerate(zip(problem.program.stages, layers, strict=True)):
        size = magnitudes(problem.x0, problem.input_set, layers[number - 1] if number else None)
        membranes = Interval(*(arithmetic.raised(end) for end in layer.membranes))
        error = membrane_error(stage.operators, size, membranes, stage.neuron, arithmetic)
        coupling: Coupling = chain(stage.operators, size[0], arithmetic)
        if problem.held(number):
            coupling = Constant(coupling)
        levels.append(Level(coupling, relaxation(membranes, stage.neuron), error))
    return levels


def backward_margins(problem: Problem, layers: Sequence[Layer], levels: Sequence[Level]) -> Tensor:
    """Margins ``[B, K-1]`` from a backward pass."""
    rate = ibp.rates(layers[-1], problem.x0.dtype)
    forms = margin_forms(problem.program.readout, rate, problem.y, problem.steps, problem.arithmetic)
    return lower(Whole(problem.x0, problem.input_set), levels, forms).T / problem.steps


def in_groups(problem: Problem, options: BoundOptions, bound: Callable[[Problem], Tensor]) -> Tensor:
    """A bound of all samples, as many at a time as the memory allows."""
    size = rows_that_fit(row_bytes(problem) * (problem.classes - 1), options.memory)
    if size >= len(problem.y):
        return bound(problem)
    return torch.cat([bound(part) for part in problem.groups(size)])


def row_bytes(problem: Problem) -> int:
    """Bytes of one row of coefficients for one sample, in the two widest neighbouring operators' outputs."""
    axis = problem.program.input.batch_axis
    frames = problem.program.input.frames(problem.x0.narrow(axis, 0, 0), None)[0]
    x = problem.arithmetic.raised(frames[0])
    sizes = [x.shape[1:].numel()]
    for stage in problem.program.stages:
        shapes = chain(stage.operators, x, problem.arithmetic)
        sizes += [shape.numel() for shape in shapes.shapes[1:]] + [shapes.outputs.numel()]
        x = x.new_empty(0, *shapes.outputs)
    return x.element_size() * problem.steps * max(one + other for one, other in pairwise(sizes))
