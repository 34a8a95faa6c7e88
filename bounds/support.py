"""What the bounds need to know of an input set: the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from certsnn.bounds.interval.arithmetic import Arithmetic
from certsnn.inputsets import InputSet

if TYPE_CHECKING:  # these modules take what is declared here
    from certsnn.bounds.interval.layers import Source
    from certsnn.bounds.interval.topk import Ranking
    from certsnn.bounds.linear.active_neurons import Selection
    from certsnn.bounds.linear.backward import Entry
    from certsnn.bounds.search.constraints import Vector
    from certsnn.bounds.search.model import Model
    from certsnn.bounds.search.sums import Places


@dataclass(frozen=True)
class BoundSupport(ABC):
    """An input set as the bounds see it: where each kind of bound begins.

    Every class of input sets has one, by its exact class, in `certsnn.bounds.SUPPORTS`; a set without one is
    refused. A set of your own gets one in the same way, before anything is bounded:

        @final
        @dataclass(frozen=True)
        class MySupport(BoundSupport):
            input_set: MySet
            ...

        SUPPORTS[MySet] = MySupport
    """

    input_set: Any
    """The set; a subclass names the class of it."""

    @abstractmethod
    def start(self, x0: Tensor, steps: int, ranking: Ranking) -> Source:
        """What interval bounds start from: bounds of all that the members drive the first layer with.

        Args:
            x0: the nominal inputs, as the network takes them.
            steps: T.
            ranking: which flips compete for a budget, where there is one.
        """

    @abstractmethod
    def selected(self, x0: Tensor, arithmetic: Arithmetic) -> tuple[Selection, Entry]:
        """The inputs that a refinement keeps, at least those that may change, and where their forms end."""

    @abstractmethod
    def restrict(self, model: Model, x0: Vector, inputs: Places) -> None:
        """Add rows for what the set says beyond its box to a search's constraints; to add none is sound.

        Args:
            model: the constraints of one sample.
            x0: its nominal input ``[F, n]``.
            inputs: the variable of each input ``[F, n]``, -1 where it is fixed.
        """

    def select(self, mask: Tensor) -> BoundSupport:
        """The support of the set of some of the samples, ``mask: bool [B]``."""
        chosen: InputSet = self.input_set.select(mask)
        return replace(self, input_set=chosen)
