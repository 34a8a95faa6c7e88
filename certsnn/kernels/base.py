"""What a set of kernels can do. Tensors in, new tensors out; no gradients are recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from certsnn.dynamics import Dynamics, Ends
from certsnn.kernels.linear import LinearKernels

Bounds = tuple[Ends, Ends]
"""Of membranes and of spikes."""


class Kernels(LinearKernels, ABC):
    """The loops, in one formulation. Arrays are ``[T, B, ...]``."""

    @abstractmethod
    def scan(self, currents: Tensor, steps: int, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """The membranes and spikes of neurons over ``steps`` steps, at which a single current is held."""

    @abstractmethod
    def step_scan(self, currents: Ends, dynamics: Dynamics) -> Bounds:
        """Bounds of the membranes and of the spikes, both like the currents.

        The first membrane is ``initial + I_1``; each next one is `Order.advance_ends` of the one before.
        """

    @abstractmethod
    def step_scan_within(self, currents: Ends, within: Ends, dynamics: Dynamics) -> Bounds:
        """`step_scan` that goes on at each step from what lies within other bounds of the membranes, too.

        Bounds that cross by noise are swapped.
        """

    @abstractmethod
    def widened(self, sums: Ends, dynamics: Dynamics, unit: float, underflow: float) -> tuple[Ends, Tensor]:
        """Bounds of initial potential and cumulative current, wider by the membranes' rounding errors; these.

        They are `accumulated_rounding` of the larger magnitude.
        """

    @abstractmethod
    def count_scan(self, sums: Tensor, held: int | None, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
        """What is compared with the threshold, ``initial + C_t + offset n_{t-1}``, and the counts n.

        With ``held`` steps the only current I, ``[1, B, ...]``, is that of each step, so ``C_t = t I``; else
        C_t is given.
        """
