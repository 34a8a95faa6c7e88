"""The bound methods by name: from a problem to lower bounds of its margins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from certsnn.bounds import ibp
from certsnn.bounds.arithmetic import Interval
from certsnn.bounds.branching import proved_margins
from certsnn.bounds.crown import Level, Whole, chain, lower, magnitudes, margin_forms, membrane_error
from certsnn.bounds.flips import FeasibleFlips
from certsnn.bounds.memory import rows_that_fit
from certsnn.bounds.problem import Options, Problem
from certsnn.bounds.refine import Refinement
from certsnn.bounds.relaxation import Relaxation, joint, separate
from certsnn.bounds.sources import Layer

RELAXATIONS: Mapping[str, Relaxation] = {"joint": joint, "separate": separate}
Method = Callable[[Problem, Options], Tensor]


def s_ibp(problem: Problem, options: Options) -> Tensor:
    """S-IBP (design, section 4)."""
    return interval_layers(problem)[0]


def s_crown_ibp(problem: Problem, options: Options) -> Tensor:
    """One backward pass; bounds of the layers by S-IBP, and S-IBP's margins where they are better."""
    relaxation = RELAXATIONS[options.relaxation]

    def bound(part: Problem) -> Tensor:
        found, layers = interval_layers(part)
        return torch.maximum(found, backward_margins(part, layers, levels_of(part, layers, relaxation)))

    return in_groups(problem, options, bound)


def s_crown(problem: Problem, options: Options) -> Tensor:
    """S-CROWN, with S-CROWN bounds of every layer's undecided neurons; and S-IBP's where they are better."""
    return alpha_s_crown(problem, replace(options, iterations=0))


def alpha_s_crown(problem: Problem, options: Options) -> Tensor:
    """`s_crown` with optimised slopes, in the layers and at the end; at the deadline it has what it has."""
    relaxation = RELAXATIONS[options.relaxation]

    def bound(part: Problem) -> Tensor:
        found, _ = interval_layers(part)
        refinement = Refinement(part, relaxation, options)
        layers = refinement.layers
        found = torch.maximum(found, forward_margins(part, layers))
        found = torch.maximum(found, backward_margins(part, layers, levels_of(part, layers, relaxation)))
        return torch.maximum(found, refinement.margins())

    with torch.no_grad():
        return torch.cat([bound(part) for part in problem.groups(1)] or [s_ibp(problem, options)])


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
    axis = problem.program.input.batch_axis
    traces = problem.program.traces(problem.x0.narrow(axis, 0, 0))
    sizes = [problem.x0.shape[axis + 1 :].numel()]
    sizes += [trace.membranes.shape[2:].numel() for trace in traces]
    widest = max(one + other for one, other in pairwise(sizes))
    itemsize = problem.arithmetic.raised(problem.x0[:0]).element_size()
    sample = itemsize * (problem.classes - 1) * problem.steps * widest
    size = rows_that_fit(sample, options.memory)
    if size >= len(problem.y):
        return bound(problem)
    return torch.cat([bound(part) for part in problem.groups(size)])
