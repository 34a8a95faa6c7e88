"""The interface of a bound method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem


class Broken(NamedTuple):
    """Samples that an attack has broken, ``found: bool [B]``.

    ``members``, shaped as x0: for a broken sample a member of the input set that the network gets wrong, or
    ties, as executed; x0 for the others.
    """

    found: Tensor
    members: Tensor

    @classmethod
    def nothing(cls, problem: Problem) -> Broken:
        """No sample is broken."""
        return cls(torch.zeros_like(problem.y, dtype=torch.bool), problem.x0)


class Method(ABC):
    """Sound lower bounds of margins, and how they are to be asked for.

    A new method is a final subclass, and an entry of the list in `certsnn.bounds.methods`.

    ``name``: what ``method=`` and ``--method`` call it. ``help``: a few words for ``certsnn verify --help``.
    ``alone``: whether it runs on one sample at a time. ``limited``: whether a time limit is for it; it then
    heeds `BoundOptions.deadline`.
    """

    name: str
    help: str
    alone: bool = False
    limited: bool = False

    @abstractmethod
    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        """Lower bounds ``[B, K-1]`` of ``logit[y] - logit[j]`` for the classes j != y, ascending.

        Raises:
            OverBudget, MemoryError, RuntimeError: for want of memory.
            OutOfTime: at the deadline, unless it ends with the bounds it has.
        """

    def prove(self, problem: Problem, options: BoundOptions) -> Tensor:
        """Lower bounds for a verdict: as `__call__`, but of a sample that S-IBP proves S-IBP's will do."""
        return self(problem, options)

    @property
    def stages(self) -> Sequence[Method]:
        """The methods that a verdict tries one after the other: itself, or those that it is made of."""
        return (self,)

    def suits(self, problem: Problem) -> bool:
        """Whether a cascade should try the method on such a network."""
        return True

    def gains(self, problem: Problem) -> bool:
        """Whether the method was seen to certify samples of such networks that those before it leave open."""
        return True

    def attack(self, problem: Problem, options: BoundOptions) -> Broken:
        """What an attack breaks of the samples that a verdict's quick stages leave open; by default nothing.

        Raises:
            OverBudget, MemoryError, RuntimeError: for want of memory.
        """
        return Broken.nothing(problem)
