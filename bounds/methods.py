"""The bound methods by name: from a problem to lower bounds of its margins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from certsnn.bounds.interval import propagate as ibp
from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.layers import Layer
from certsnn.bounds.interval.topk import FeasibleFlips
from certsnn.bounds.linear.backward import (
    Level,
    Whole,
    chain,
    lower,
    magnitudes,
    margin_forms,
    membrane_error,
)
from certsnn.bounds.linear.intermediate import Refinement, sample_sizes
from certsnn.bounds.linear.relaxation import Relaxation, joint, separate
from certsnn.bounds.memory import TEMPORARIES, packed, rows_that_fit
from certsnn.bounds.problem import Options, Problem
from certsnn.bounds.search.branch_and_bound import proved_margins

RELAXATIONS: Mapping[str, Relaxation] = {"joint": joint, "separate": separate}
Method = Callable[[Problem, Options], Tensor]
TOGETHER = 64
"""At most so many samples are refined together: more gain nothing."""


def s_ibp(problem: Problem, options: Options) -> Tensor:
    """S-IBP: intervals alone."""
    return interval_layers(problem)[0]


def s_crown_ibp(problem: Problem, options: Options) -> Tensor:
    """One backward pass; bounds of the layers by S-IBP, and S-IBP's margins where they are better."""
    relaxation = RELAXATIONS[options.relaxation]

    def bound(part: Problem) -> Tensor:
        found, layers = interval_layers(part)
        return torch.maximum(found, backward_margins(part, layers, levels_of(part, layers, relaxation)))

    return in_groups(problem, options, bound)


@torch.no_grad()
def s_crown(problem: Problem, options: Options) -> Tensor:
    """S-CROWN, with S-CROWN bounds of every layer's undecided neurons; and S-IBP's where they are better."""
    found, layers = interval_layers(problem)
    sizes = sample_sizes(problem, layers) + TEMPORARIES * row_bytes(problem) * (problem.classes - 1)
    for group in packed(sizes, options.memory // 2, TOGETHER):
        part = problem.at(group)
        refined = refined_margins(part, replace(options, iterations=0, memory=options.memory // 2))
        found[group] = torch.maximum(found[group], refined)
    return found


@torch.no_grad()
def alpha_s_crown(problem: Problem, options: Options) -> Tensor:
    """`s_crown` with optimised slopes, in the layers and at the end; at the deadline it has what it has."""
    found, _ = interval_layers(problem)
    for sample, part in enumerate(problem.groups(1)):
        found[sample] = torch.maximum(found[sample], refined_margins(part, options)[0])
    return found


def refined_margins(problem: Problem, options: Options) -> Tensor:
    """The best margins ``[B, K-1]`` that S-CROWN bounds of the layers give, in all samples together."""
    relaxation = RELAXATIONS[options.relaxation]
    refinement = Refinement(problem, relaxation, options)
    layers = refinement.layers
    found = forward_margins(problem, layers)
    found = torch.maximum(found, backward_margins(problem, layers, levels_of(problem, layers, relaxation)))
    return torch.maximum(found, refinement.margins())


def branch_and_bound(problem: Problem, options: Options) -> Tensor:
    """S-IBP, and a search on spike counts for the margins that it leaves open (count domain alone)."""
    return proved_margins(problem, s_ibp(problem, options), options)


def second_engine(method: str) -> Method:
    """The bounds of auto_LiRPA, to compare with; see `certsnn.interop.auto_lirpa`."""

    def bound(problem: Problem, options: Options) -> Tensor:
        from certsnn.interop import auto_lirpa  # an optional dependency, loaded on use

        if problem.arithmetic.unit:
            raise ValueError(f"auto-lirpa:{method} does not cover rounding errors; use rounding=False")
        return auto_lirpa.margin_bounds(problem.program, problem.x0, problem.y, problem.input_set, method)

    return bound


METHODS: Mapping[str, Method] = {
    "s-ibp": s_ibp,
    "s-crown-ibp": s_crown_ibp,
    "s-crown": s_crown,
    "alpha-s-crown": alpha_s_crown,
    "branch-and-bound": branch_and_bound,
    "auto-lirpa:ibp": second_engine("ibp"),
    "auto-lirpa:crown-ibp": second_engine("crown-ibp"),
    "auto-lirpa:crown": second_engine("crown"),
}


def interval_layers(problem: Problem) -> tuple[Tensor, list[Layer]]:
    """S-IBP's margins ``[B, K-1]`` and layers."""
    return ibp.interval_margins(
        problem.program, problem.x0, problem.y, problem.input_set, problem.arithmetic, FeasibleFlips()
    )


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
        coupling = chain(stage.operators, size[0], arithmetic)
        held = number == 0 and problem.input_set.domain == "image"
        levels.append(Level(coupling, relaxation(membranes, stage.neuron), error, held))
    return levels


def backward_margins(problem: Problem, layers: Sequence[Layer], levels: Sequence[Level]) -> Tensor:
    """Margins ``[B, K-1]`` from a backward pass."""
    rate = ibp.rates(layers[-1], problem.x0.dtype)
    forms = margin_forms(problem.program.readout, rate, problem.y, problem.steps, problem.arithmetic)
    return lower(Whole(problem.x0, problem.input_set), levels, forms).T / problem.steps


def in_groups(problem: Problem, options: Options, bound: Callable[[Problem], Tensor]) -> Tensor:
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
