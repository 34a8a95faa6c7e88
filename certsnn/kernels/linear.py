"""The kernels of linear bounds: lines below what neurons do, carried back through time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from certsnn.dynamics import Dynamics
from certsnn.kernels.lines import Scanned
from certsnn.kernels.points import Points


class LinearKernels(ABC):
    """A part of `certsnn.kernels.base.Kernels`."""

    @abstractmethod
    def joint_scan(
        self, a: Tensor, carried: Tensor, low: Tensor, high: Tensor, dynamics: Dynamics, follow: Tensor | None
    ) -> Scanned:
        """`lines.scan_back` of the joint relaxation (`lines.JointForms`).

        Args:
            a: coefficients of the spikes, ``[S, T, B, ...]``.
            carried: those of the potential carried on after the last step, ``[S, B, ...]``.
            low: lower ends of the membranes, ``[T, B, ...]``.
            high: their upper ends.
            dynamics: numbers in the same dtype, that broadcast against the ends; the initial potential
                broadcasts against ``[B, ...]``.
            follow: see `lines.scan_back`.
        """

    @abstractmethod
    def joint_gradient(
        self,
        a: Tensor,
        carried: Tensor,
        low: Tensor,
        high: Tensor,
        dynamics: Dynamics,
        follow: Tensor | None,
        k: Tensor,
        to: Scanned,
    ) -> tuple[Tensor, ...]:
        """The gradient of `joint_scan`, whose slopes are k: towards a, carried, low, high and `NUMBERS`.

        Those of the numbers are yet to be summed up to their shapes.
        """

    @abstractmethod
    def held_line(self, a: Tensor, trains: Sequence[Sequence[int]], points: Points) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts ``[S, B, ...]`` of lines below forms ``a [S, T, B, ...]`` of spikes.

        The spikes are those that a constant current causes: ``trains [M, T]``, on the pieces that the points
        bound. Each line has the slope `Points.middle` and the intercept `Points.intercept`.
        """

    @abstractmethod
    def missed(self, k: Tensor, error: Tensor) -> Tensor:
        """``sum_t |k_t| error_t`` at each neuron, ``[S, B, ...]``, for coefficients ``[S, F, B, ...]``.

        The errors broadcast against one row of them.
        """
