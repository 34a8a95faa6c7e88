"""The interface of a bound method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem


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

    @property
    def stages(self) -> Sequence[Method]:
        """The methods that a verdict tries one after the other: itself, or those that it is made of."""
        return (self,)

    def suits(self, problem: Problem) -> bool:
        """Whether a cascade should try the method on such a network."""
        return True
