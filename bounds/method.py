"""The interface of a bound method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from torch import Tensor

from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.program import Program


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

    def refusal(self, program: Program) -> str:
        """Why it can't bound this network, in words; "" if it can."""
        return ""

    @final
    def stages_for(self, program: Program) -> Sequence[Method]:
        """`stages`, without those that can't bound the network where others can.

        Raises:
            TypeError: if none can; before any work.
        """
        refusals = [method.refusal(program) for method in self.stages]
        fine = [method for method, why in zip(self.stages, refusals, strict=True) if not why]
        if not fine:
            raise TypeError(f"{self.stages[0].name} {refusals[0]}")
        return fine

    @abstractmethod
    def __call__(self, problem: Problem, options: BoundOptions) -> Tensor:
        """Lower bounds ``[B, K-1]`` of ``logit[y] - logit[j]`` for the classes j != y, ascending.

        Raises:
            OverBudget, MemoryError, RuntimeError: for want of memory.
            OutOfTime: at the deadline, unless it ends with the bounds it has.
        """

    @property
    def stages(self) -> Sequence[Method]:
        """The methods that a verdict tries one after the other: itself, or those that it is made of."""
        return (self,)
