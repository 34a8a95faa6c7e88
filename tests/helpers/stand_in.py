"""A bound method made of a function, and a cascade of them on samples that name themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from certsnn.bounds import Method, bind
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF

Answer = Sequence[float] | Exception
NO, YES = (-1.0, -2.0), (0.5, 1.0)


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


def problem_of(y: Sequence[int]) -> Problem:
    """Samples that a network gives to class 0, with margins 1; the last pixel names the sample."""
    linear = nn.Linear(4, 3, bias=False)
    linear.weight.data = torch.eye(3, 4)
    network = SpikingNetwork([linear, IF(0.5)], 2)
    x = torch.tensor([[0.75, 0.0, 0.0, sample / 16] for sample in range(len(y))]).view(-1, 4)
    x0, input_set = bind(network, x, LinfBall(0.1), None)
    return pose(network.freeze(), x0, torch.tensor(y, dtype=torch.int64), input_set, RIGOROUS)


class Calls(list[tuple[str, list[int], float]]):
    """The name, samples and deadline of each call of the stages that it makes."""

    def stage(
        self, name: str, answers: Mapping[int, Answer], alone: bool = False, limited: bool = False
    ) -> Method:
        """A method that gives these answers, and `NO` for the other samples."""

        def method(problem: Problem, options: BoundOptions) -> Tensor:
            samples = [round(16 * float(pixel)) for pixel in problem.x0[:, 3]]
            self.append((name, samples, options.deadline))
            rows = []
            for sample in samples:
                answer = answers.get(sample, NO)
                if isinstance(answer, Exception):
                    raise answer
                rows.append(list(answer))
            return torch.tensor(rows, dtype=torch.float64)

        return StandIn(name, method, alone, alone or limited)

    @property
    def asked(self) -> list[tuple[str, list[int]]]:
        return [(name, samples) for name, samples, _ in self]
