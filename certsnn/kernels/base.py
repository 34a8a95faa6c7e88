"""What a set of kernels can do. Tensors in, new tensors out; no gradients are recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from certsnn.dynamics import Dynamics, Ends


class Kernels(ABC):
    """The loops, in one formulation."""

    @abstractmethod
    def step_scan(self, currents: Ends, dynamics: Dynamics) -> tuple[Ends, Ends]:
        """Bounds of the membranes and of the spikes, both ``[T, B, ...]`` like the currents.

        The first membrane is ``initial + I_1``; each next one is `Order.advance_ends` of the one before.
        """
