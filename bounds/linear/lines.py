"""Lines below the input-output function of a layer: the interface of relaxations, and the scan over time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.linear.alpha_scan import followed
from certsnn.dynamics import STEPWISE, Dynamics, gather


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


class Stepwise(Lines):
    """Lines below f at every neuron and step ``[T, B, ...]``: functions of the membrane of that step alone.

    Coefficients of one step are ``[S, B, ...]``; a of None stands for zeros. The potential before the first
    step broadcasts against them.
    """

    initial: Tensor

    @property
    @abstractmethod
    def steps(self) -> int:
        """T."""

    @abstractmethod
    def slopes(self, t: int, a: Tensor | None, c: Tensor) -> Tensor:
        """The slopes k ``[S, B, ...]`` of the lines at step t (from 0)."""

    @abstractmethod
    def constant(self, t: int, a: Tensor | None, c: Tensor, k: Tensor) -> Tensor:
        """The intercepts ``[S, B]`` of the lines with slopes k at step t, summed over all neurons."""

    @abstractmethod
    def until(self, steps: int) -> Stepwise:
        """The lines of the first steps only."""

    @final
    def pull(self, a: Tensor) -> Pulled:
        return self.pull_spikes(a, [None] * (self.steps - 1))

    @abstractmethod
    def pull_spikes(self, a: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
        """`scan_back` with nothing carried on after the last step."""

    @final
    def pull_carried(self, a: Tensor | None, carried: Tensor) -> Pulled:
        """`pull`, with a coefficient ``[S, B, ...]`` on the potential carried on after the last step."""
        return scan_back(self, a, carried, [None] * (self.steps - 1))


class Neuronwise(Stepwise):
    """Lines that can be taken of single neurons."""

    @abstractmethod
    def until(self, steps: int) -> Neuronwise:
        """The lines of the first steps only."""

    @abstractmethod
    def at(self, column: Tensor) -> Neuronwise:
        """The lines of one neuron for each row: ``column [S, B]`` counts flattened neurons.

        The result takes coefficients ``[S, T, B, 1]``.
        """


def scan_back(lines: Stepwise, a: Tensor | None, carried: Tensor, follow: Sequence[Tensor | None]) -> Pulled:
    """`Stepwise.pull_carried`, from the last step to the first.

    ``follow[t]``: where the neurons of step t are at step t + 1, where each step has neurons of its own
    (``[B, m]`` positions; one past the end for those that are gone); None where they are the same ones.
    """
    slopes = []
    c = carried
    constant = c.new_zeros(c.shape[:2])
    for t in reversed(range(lines.steps)):
        if t < lines.steps - 1:
            c = followed(c, follow[t])
        spikes = None if a is None else a[:, t]
        k = lines.slopes(t, spikes, c)
        constant = constant + lines.constant(t, spikes, c, k)
        slopes.append(k)
        c = k
    return Pulled(torch.stack(slopes[::-1], 1), constant + (c * lines.initial).flatten(2).sum(2))


@final
@dataclass(frozen=True)
class Tracked(Lines):
    """Lines of those neurons alone that matter, other ones at each step: ``[T, B, m]``; see `scan_back`."""

    lines: Stepwise
    follow: Sequence[Tensor]

    def pull(self, a: Tensor) -> Pulled:
        return self.lines.pull_spikes(a, self.follow)

    def until(self, steps: int) -> Tracked:
        return Tracked(self.lines.until(steps), self.follow[: steps - 1])


def aligned(values: Tensor, coefficients: Tensor) -> Tensor:
    """Values ``[T, B, ...]`` as they are; those for each row, ``[T, S, B, ...]``, with the rows first."""
    return values if values.ndim < coefficients.ndim else values.transpose(0, 1)


def least_width(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Unstable intervals are widened to this on the longer side of the threshold.

    Slopes then stay below ``jump / least width``: a larger interval is always sound, and rounding noise in
    steep lines through a tiny one would not be.
    """
    return threshold.to(dtype) * math.sqrt(torch.finfo(dtype).eps)


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
    """``[T, B, ...]`` at one neuron for each row, ``column [S, B]``: ``[T, S, B, 1]``."""
    rows = values.flatten(2)[:, None].expand(-1, len(column), -1, -1)
    return rows.gather(3, column[None, :, :, None].expand(len(values), -1, -1, -1))


def at_neuron(number: Tensor, shape: Sequence[int], column: Tensor) -> Tensor:
    """A parameter of one neuron (of a sample of the shape) for each row, ``column [S, B]``: ``[S, B, 1]``."""
    return gather(number, shape, column[:, :, None])
