"""How logits are read from the values over time that a network ends with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, final

from torch import Tensor

ReadoutName = Literal["rate", "membrane", "sum", "last", "maximum"]


class Readout(ABC):
    """What is taken of the values of all steps, before and after the affine readout.

    The network executes `frames`, then the affine readout on these frames, then `logits`. Bounds of a class
    are registered in `certsnn.bounds.readouts`. ``name``: for messages.
    """

    name: ClassVar[str]

    @abstractmethod
    def frames(self, values: Tensor) -> Tensor:
        """What enters the affine readout, ``[F', B, ...]``, from the last values ``[F, B, ...]``."""

    @abstractmethod
    def logits(self, outputs: Tensor, steps: int) -> Tensor:
        """Logits ``[B, K]`` from the outputs ``[F', B, K]`` of the affine readout, over T steps."""

    @abstractmethod
    def reach(self, values: float, outputs: float, steps: int) -> float:
        """A bound of sums over time, from bounds of the magnitudes of the values and of the outputs."""


@final
class Mean(Readout):
    """The mean over time of the affine readout's outputs.

    Executed: the sum of the values over time, divided by T, then the affine readout. The two commute, and it
    is one product a sample instead of T. Without operators it is the firing rate.
    """

    name = "mean"

    def frames(self, values: Tensor) -> Tensor:
        return mean_over_time(values)[None]

    def logits(self, outputs: Tensor, steps: int) -> Tensor:
        return outputs[0]

    def reach(self, values: float, outputs: float, steps: int) -> float:
        return steps * values


@final
class Total(Readout):
    """The sum over time. Executed: the affine readout at every step, then the sum of its outputs."""

    name = "sum"

    def frames(self, values: Tensor) -> Tensor:
        return values

    def logits(self, outputs: Tensor, steps: int) -> Tensor:
        return outputs.expand(steps, *outputs.shape[1:]).sum(0)

    def reach(self, values: float, outputs: float, steps: int) -> float:
        return steps * outputs


@final
class Last(Readout):
    """The last step. Executed: the affine readout on the last step's values."""

    name = "last"

    def frames(self, values: Tensor) -> Tensor:
        return values[-1:]

    def logits(self, outputs: Tensor, steps: int) -> Tensor:
        return outputs[0]

    def reach(self, values: float, outputs: float, steps: int) -> float:
        return outputs


@final
class Greatest(Readout):
    """Each class at its greatest. Executed: the affine readout at every step, then the maximum over time."""

    name = "maximum"

    def frames(self, values: Tensor) -> Tensor:
        return values

    def logits(self, outputs: Tensor, steps: int) -> Tensor:
        return outputs.amax(0)

    def reach(self, values: float, outputs: float, steps: int) -> float:
        return outputs


READOUTS: Mapping[str, Readout] = {
    "rate": Mean(),
    "membrane": Mean(),
    "sum": Total(),
    "last": Last(),
    "maximum": Greatest(),
}
"""By name. A rate is the mean of a last layer of neurons."""


def mean_over_time(values: Tensor) -> Tensor:
    """The mean ``[B, ...]`` of values ``[T, B, ...]``, a quotient that every device rounds alike.

    CUDA multiplies by the reciprocal of a number; a divisor in a tensor is really divided by.
    """
    sums = values.sum(0)
    return sums / sums.new_full((), len(values))
