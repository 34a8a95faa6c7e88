"""The bound methods by name: from a problem to lower bounds of its margins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from certsnn.bounds import crown, ibp
from certsnn.bounds.crown import Level
from certsnn.bounds.flips import FeasibleFlips
from certsnn.bounds.memory import footprint
from certsnn.bounds.problem import Options, Problem
from certsnn.bounds.refine import entry_of, levels_of, refine
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
    """S-CROWN, with S-CROWN bounds of every layer's undecided neurons, intersected with S-IBP's."""
    relaxation = RELAXATIONS[options.relaxation]

    def bound(part: Problem) -> Tensor:
        found, _ = interval_layers(part)
        layers, levels = refine(part, relaxation, footprint(part, options.memory), options)
        refined = forward_margins(part, layers)
        return torch.maximum(torch.maximum(found, refined), backward_margins(part, layers, levels))

    return in_groups(problem, options, bound)


METHODS: Mapping[str, Method] = {"s-ibp": s_ibp, "s-crown-ibp": s_crown_ibp, "s-crown": s_crown}


def interval_layers(problem: Problem) -> tuple[Tensor, list[Layer]]:
    """S-IBP's margins ``[B, K-1]`` and layers."""
    return ibp.interval_margins(
        problem.program, problem.x0, problem.y, problem.input_set, problem.arithmetic, FeasibleFlips()
    )


def forward_margins(problem: Problem, layers: Sequence[Layer]) -> Tensor:
    """Margins ``[B, K-1]`` from the bounds of the last layer alone."""
    rate = ibp.rates(layers[-1], problem.x0.dtype)
    return ibp.margins(problem.program.readout, rate, problem.y, problem.arithmetic)


def backward_margins(problem: Problem, layers: Sequence[Layer], levels: Sequence[Level]) -> Tensor:
    """Margins ``[B, K-1]`` from a backward pass."""
    rate = ibp.rates(layers[-1], problem.x0.dtype)
    forms = crown.margin_forms(problem.program.readout, rate, problem.y, problem.steps, problem.arithmetic)
    return crown.margins(entry_of(problem), levels, forms)


def in_groups(problem: Problem, options: Options, bound: Callable[[Problem], Tensor]) -> Tensor:
    """A bound of all samples, as many at a time as the memory allows."""
    rows = max(1, problem.classes - 1)
    size = footprint(problem, options.memory).samples(rows, problem.steps)
    if size >= len(problem.y):
        return bound(problem)
    return torch.cat([bound(part) for part in problem.groups(size)])
