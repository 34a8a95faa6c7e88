"""Lines below the input-output function of a layer: the interface of relaxations, and the scan over time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.dynamics import STEPWISE, Dynamics, gather
from certsnn.kernels import lines as kernels
from certsnn.kernels.lines import ScanLines


class Lines(ABC):
    """Minorants of a layer of neurons' output, for every row of coefficients."""

    @abstractmethod
    def pull(self, a: Tensor) -> Pulled:
        """Carry coefficients of the spikes ``[S, T, B, ...]`` back to the currents that drive the layer."""

    @abstractmethod
    def until(self, steps: int) -> Lines:
        """The lines of the first steps only."""


class Pulled(NamedTuple):
    """``sum a s + carried v_T >= sum currents I + constant``.

    ``currents [S, T, B, ...]``, or ``[S, 1, B, ...]`` for a current that is the same at every step;
    ``constant [S, B]``.
    """

    currents: Tensor
    constant: Tensor


class Stepwise(Lines, ScanLines):
    """Lines below f at every neuron and step: functions of the membrane of that step alone."""

    @abstractmethod
    def until(self, steps: int) -> Stepwise:
        """The lines of the first steps only."""

    @final
    def pull(self, a: Tensor) -> Pulled:
        return self.pull_spikes(a, None)

    def pull_spikes(self, a: Tensor, follow: Tensor | None) -> Pulled:
        """`pull` where each step has neurons of its own: ``follow`` is that of `kernels.lines.scan_back`."""
        return self.scanned(a, torch.zeros_like(a[:, 0]), follow)

    @final
    def pull_carried(self, a: Tensor | None, carried: Tensor) -> Pulled:
        """`pull`, with a coefficient ``[S, B, ...]`` on the potential carried on; an a of None is 0."""
        if a is None:
            a = carried.new_zeros(len(carried), self.steps, *carried.shape[1:])
        return self.scanned(a, carried, None)

    def scanned(self, a: Tensor, carried: Tensor, follow: Tensor | None) -> Pulled:
        """What `pull_spikes` and `pull_carried` do, together."""
        return scan_back(self, a, carried, follow)


class Neuronwise(Stepwise):
    """Lines that can be taken of single neurons."""

    @abstractmethod
    def until(self, steps: int) -> Neuronwise:
        """The lines of the first steps only."""

    @abstractmethod
    def at(self, column: Tensor) -> Stepwise:
        """The lines of one neuron for each row, as ``S B`` samples of one neuron: see `carried_at`."""

    @final
    def carried_at(self, column: Tensor, carried: Tensor) -> Pulled:
        """`pull_carried` of one neuron for each row: ``column [S, B]`` counts flattened neurons.

        The coefficients are ``[S, B, 1]``, and those of the currents ``[S, T, B, 1]``.
        """
        k, constant = self.at(column).pull_carried(None, carried.reshape(1, -1, 1))
        return Pulled(k.reshape(-1, *column.shape, 1).movedim(0, 1), constant.reshape(column.shape))


def scan_back(lines: ScanLines, a: Tensor, carried: Tensor, follow: Tensor | None) -> Pulled:
    """`kernels.lines.scan_back`, with the intercepts of all neurons added up."""
    return summed(kernels.scan_back(lines, a, carried, follow))


def summed(scanned: kernels.Scanned) -> Pulled:
    """With one intercept for each sample."""
    return Pulled(scanned.slopes, scanned.intercepts.flatten(2).sum(2))


@final
@dataclass(frozen=True)
class Tracked(Lines):
    """Lines of those neurons alone that matter, other ones at each step: ``[T, B, m]``.

    ``follow [T - 1, B, m]`` is that of `certsnn.kernels.lines.scan_back`.
    """

    lines: Stepwise
    follow: Tensor

    def pull(self, a: Tensor) -> Pulled:
        return self.lines.pull_spikes(a, self.follow)

    def until(self, steps: int) -> Tracked:
        return Tracked(self.lines.until(steps), self.follow[: steps - 1])


def aligned(values: Tensor, coefficients: Tensor) -> Tensor:
    """Values ``[T, B, ...]`` as they are; those for each row, ``[T, S, B, ...]``, with the rows first."""
    return values if values.ndim < coefficients.ndim else values.transpose(0, 1)


def exactly(dynamics: Dynamics, dtype: torch.dtype) -> Dynamics:
    """The same numbers in the dtype of the bounds, so that no product of them is rounded to their own."""
    return dynamics.mapped(lambda number: number.to(dtype))


def by_step(dynamics: Dynamics, shape: Sequence[int]) -> Dynamics:
    """Numbers that differ as ``[T, B, ...]``, the shape of the membranes; the initial potential is left."""
    return dynamics.mapped(lambda n: n.reshape(()) if n.numel() == 1 else n.expand(*shape), STEPWISE)


def some_steps(dynamics: Dynamics, place: int | slice) -> Dynamics:
    """What `by_step` made, at one or some of the steps."""
    return dynamics.mapped(lambda number: number[place] if number.ndim else number, STEPWISE)


def chosen(values: Tensor, column: Tensor) -> Tensor:
    """``[T, B, ...]`` at one neuron for each row, ``column [S, B]``: ``[T, S B, 1]``."""
    rows = values.flatten(2)[:, None].expand(-1, len(column), -1, -1)
    return rows.gather(3, column[None, :, :, None].expand(len(values), -1, -1, -1)).flatten(1, 2)


def at_neuron(number: Tensor, shape: Sequence[int], column: Tensor) -> Tensor:
    """A parameter of one neuron (of a sample of the shape) for each row, ``column [S, B]``: ``[S B, 1]``."""
    return gather(number, shape, column.reshape(-1, 1))
