"""What a neuron does, from tensors of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from certsnn.dynamics import RESET_FIRST, Dynamics
from certsnn.surrogates import Rectangle


def dynamics_of(numbers: Iterable[Tensor], lossless: bool = False) -> Dynamics:
    """Of a threshold, a decay, an initial membrane, a gain and an offset."""
    threshold, decay, initial, gain, offset = numbers
    return Dynamics(threshold, decay, initial, gain, offset, lossless, Rectangle(), RESET_FIRST)


def changed(dynamics: Dynamics, change: Callable[[Tensor], Tensor]) -> Dynamics:
    """The same neuron with all its numbers changed, to another dtype say."""
    return dynamics.mapped(change)
