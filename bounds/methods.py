"""The bound methods, in one list."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from certsnn.bounds.attack import broken_by_attack
from certsnn.bounds.interval.propagate import margins_of
from certsnn.bounds.linear.intermediate import Refinement, sample_sizes
from certsnn.bounds.linear.levels import check_levels, has_level
from certsnn.bounds.linear.margins import backward_margins, in_groups, interval_bounds, row_bytes
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.memory import TEMPORARIES, packed
from certsnn.bounds.method import Broken, Method
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.bounds.refusals import beyond, check_within
from certsnn.bounds.search.branch_and_bound import proved_margins
from certsnn.bounds.search.encoding import takes
from certsnn.filters import Filter
from certsnn.recurrence import RecurrentStage

TOGETHER = 16
"""At most so many samples are refined together: each waits for those that ask for most."""


@final
class SIBP(Method):
    """S-IBP: interval bounds, carried forward layer by layer."""

    name = "s-ibp"
    help = "interval bounds, the fastest"

    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        return interval_bounds(problem)[0]


class Backward(Method, ABC):
    """A method of backward passes: for nodes that have levels; a verdict asks it of open samples alone."""

    @final
    def prove(self, problem: Problem, options: BoundOptions) -> Tensor:
        return _of_open_samples(self, problem, options)

    @final
    def suits(self, problem: Problem) -> bool:
        return all(map(has_level, problem.program.nodes))


@final
class SCrownIBP(Backward):
    """One backward pass; bounds of the layers by S-IBP, and S-IBP's margins where they are better."""

    name = "s-crown-ibp"
    help = "one linear backward pass over S-IBP's bounds of the layers"

    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        check_levels(problem.program)
        relaxation = RELAXATIONS[options.relaxation]

        def bound(part: Problem, rows: int) -> Tensor:
            found, sources = interval_bounds(part)
            return torch.maximum(found, backward_margins(part, sources, relaxation, rows))

        return in_groups(problem, options, bound)


@final
class SCrown(Backward):
    """S-CROWN, with S-CROWN bounds of every layer's undecided neurons; and S-IBP's where they are better."""

    name = "s-crown"
    help = "backward passes for the neurons of every layer too"
    limited = True

    @torch.no_grad()
    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        check_levels(problem.program)
        found, sources = interval_bounds(problem)
        sizes = sample_sizes(problem, sources) + TEMPORARIES * row_bytes(problem) * (problem.classes - 1)
        half = max(options.memory // 2, 1)
        for group in packed(sizes, half, TOGETHER):
            if options.late():
                break
            part = problem.at(group)
            refined = refined_margins(part, replace(options, iterations=0, memory=half))
            found[group] = torch.maximum(found[group], refined)
        return found


@final
class AlphaSCrown(Backward):
    """S-CROWN with optimised slopes, in the layers and at the end; at the deadline it has what it has."""

    name = "alpha-s-crown"
    help = "s-crown with optimised slopes, the slowest"
    alone = limited = True

    @torch.no_grad()
    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        check_levels(problem.program)
        found, _ = interval_bounds(problem)
        for sample, part in enumerate(problem.groups(1)):
            found[sample] = torch.maximum(found[sample], refined_margins(part, options)[0])
        return found

    def gains(self, problem: Problem) -> bool:
        # Slopes never certified a sample that branch and bound left open: 0 of 68 on the shipped models.
        return not BranchAndBound().gains(problem)


@final
class BranchAndBound(Method):
    """S-IBP, and a search on spike counts for the margins that it leaves open (count domain alone)."""

    name = "branch-and-bound"
    help = "a search on spike counts, for IF networks"
    alone = limited = True

    def suits(self, problem: Problem) -> bool:
        return not beyond(problem.program, RecurrentStage, Filter)

    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        check_within(self.name, problem.program, RecurrentStage, Filter)
        return proved_margins(problem, interval_bounds(problem)[0], options)

    def gains(self, problem: Problem) -> bool:
        return self.suits(problem) and takes(problem.program)


@final
@dataclass(frozen=True)
class SecondEngine(Method):
    """The bounds of auto_LiRPA, to compare with; see `certsnn.interop.auto_lirpa`."""

    engine: str
    name: str = field(init=False)
    help: str = "of auto_LiRPA, without rounding: to compare with"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"auto-lirpa:{self.engine}")

    def suits(self, problem: Problem) -> bool:
        return not beyond(problem.program, RecurrentStage, Filter)

    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        from certsnn.interop import auto_lirpa  # an optional dependency, loaded on use

        check_within(self.name, problem.program, RecurrentStage, Filter)
        if problem.arithmetic.unit:
            raise ValueError(f"{self.name} does not cover rounding errors; use rounding=False")
        return auto_lirpa.margin_bounds(
            problem.program, problem.x0, problem.y, problem.input_set, self.engine
        )


@final
class Auto(Method):
    """The best margins of a cascade of methods, without gradients.

    A sample is left alone once all of its margins are positive. A method that fails raises: see
    `certsnn.bounds.cascade.decide` for what goes on.
    """

    name = "auto"

    def __init__(self, stages: Sequence[Method]) -> None:
        self._stages = tuple(stages)
        names = ", ".join(method.name for method in stages)
        self.help = f"{names}, each on the samples that are still undecided; an attack before the slow ones"

    @property
    def stages(self) -> Sequence[Method]:
        return self._stages

    @torch.no_grad()
    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        best = problem.nothing_known()
        for method in self._stages:
            if not method.suits(problem):
                continue
            rest = (~(best > 0).all(1)).nonzero().squeeze(1)
            if len(rest) == 0:
                break
            best[rest] = torch.maximum(best[rest], method(problem.at(rest), options).to(best))
        return best

    def attack(self, problem: Problem, options: BoundOptions) -> Broken:
        return broken_by_attack(problem, options)


def refined_margins(problem: Problem, options: BoundOptions) -> Tensor:
    """The best margins ``[B, K-1]`` that S-CROWN bounds of the layers give, in all samples together."""
    relaxation = RELAXATIONS[options.relaxation]
    refinement = Refinement(problem, relaxation, options)
    found = margins_of(problem, refinement.sources)
    found = torch.maximum(found, backward_margins(problem, refinement.sources, relaxation))
    return torch.maximum(found, refinement.margins())


@torch.no_grad()
def _of_open_samples(method: Method, problem: Problem, options: BoundOptions) -> Tensor:
    """A method's margins of the samples that S-IBP leaves open, and S-IBP's of the others."""
    found = interval_bounds(problem)[0]
    open_ = ~(found > 0).all(1)
    if bool(open_.any()):
        found[open_] = method(problem.select(open_), options).to(found)
    return found


LIST: Sequence[Method] = (
    SIBP(),
    SCrownIBP(),
    SCrown(),
    AlphaSCrown(),
    BranchAndBound(),
    SecondEngine("ibp"),
    SecondEngine("crown-ibp"),
    SecondEngine("crown"),
    Auto((SIBP(), SCrownIBP(), SCrown(), BranchAndBound(), AlphaSCrown())),
)
"""Every method. "auto" tries its own list in that order."""

METHODS: dict[str, Method] = {method.name: method for method in LIST}
"""Every method by name."""


def method_named(name: str) -> Method:
    """The method of a name; raises ValueError if there is none."""
    if name not in METHODS:
        raise ValueError(f"no bound method is called {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
