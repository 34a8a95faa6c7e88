"""A bound method made of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from certsnn.bounds import Method
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem


@final
@dataclass(frozen=True)
class StandIn(Method):
    """What the function answers, under a name."""

    name: str
    answer: Callable[[Problem, BoundOptions], Tensor]
    alone: bool = False
    limited: bool = False
    help: str = "for tests"

    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        return self.answer(problem, options)
