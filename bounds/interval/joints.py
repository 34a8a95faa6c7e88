"""Interval bounds of what joins the links of a graph: sums and concatenations.

A float32 sum is a monotone function of its terms, so the same additions on the end points bound the executed
sums exactly. For the sums over the steps so far, which neurons in the count domain ask for, each addition is
off by at most ``u`` times its result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce, singledispatch
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Arithmetic, Enclosure, Interval
from certsnn.bounds.interval.frames import BoundedFrames
from certsnn.bounds.interval.layers import Held, Operators, Source, framewise, layer_of, step_numbers
from certsnn.bounds.interval.scans import Charge, Summed
from certsnn.program import Concatenation, Maximum, Node, Stage, Sum, hold, over_time


class Part(NamedTuple):
    """A link's source and the operators on it."""

    source: Source
    operators: Operators


@singledispatch
def bounded(node: Node, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    """Bounds of a node's values, from its links; register a function here to add a class of nodes.

    ``executed``: the dtype of the network.

    Raises:
        TypeError: for a node that has no interval bounds.
    """
    raise TypeError(f"there are no interval bounds for {type(node).__name__} ({node.name})")


@bounded.register
def _(node: Stage, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    (part,) = parts
    return layer_of(part.source, part.operators, node.neuron, arithmetic)


@bounded.register
def _(node: Sum, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    return settled(Added(tuple(parts), arithmetic, executed))


@bounded.register
def _(node: Concatenation, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    return settled(Joined(tuple(parts), arithmetic, executed))


@bounded.register
def _(node: Maximum, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    (part,) = parts
    # A maximum is a monotone function of its inputs, and rounds nothing.
    low, high = (
        over_time(node.pool.apply, end.to(executed))
        for end in part.source.currents(part.operators, arithmetic)
    )
    if len(low) == 1:
        return Held(Interval(low[0], high[0]), part.source.steps)
    return BoundedFrames(Interval(low, high))


@dataclass(frozen=True)
class Join(Source, ABC):
    """Values that are made of several links' outputs."""

    parts: tuple[Part, ...]
    arithmetic: Arithmetic
    executed: torch.dtype

    @property
    @final
    def steps(self) -> int:
        return self.parts[0].source.steps

    @cached_property
    def outputs(self) -> list[Interval]:
        """Bounds ``[F, B, ...]`` of each link's executed outputs."""
        found = (part.source.currents(part.operators, self.arithmetic) for part in self.parts)
        # The executed outputs are numbers of this dtype, and rounding is monotone.
        return [Interval(low.to(self.executed), high.to(self.executed)) for low, high in found]

    @cached_property
    def values(self) -> Interval:
        """`box`, made of the links' outputs."""
        return Interval(*(self.joined([output[end] for output in self.outputs]) for end in (0, 1)))

    @final
    def box(self) -> Interval:
        return self.values

    @abstractmethod
    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """What the node makes of ``[F, B, ...]``, monotone in each: the executed operations."""

    @abstractmethod
    def lost(self) -> Tensor:
        """How far executed values may be from the exact joint of executed parts, ``[F, B, ...]``."""

    @final
    def currents(self, operators: Operators, arithmetic: Arithmetic) -> Interval:
        return framewise(operators, self.values, arithmetic)

    @final
    def charge(self, operators: Operators, arithmetic: Arithmetic) -> Charge:
        charges = [part.source.charge(part.operators, arithmetic).sums for part in self.parts]
        low, high = (self.joined([charge[end] for charge in charges]) for end in (0, 1))
        magnitude = hold(torch.maximum(-self.values.lower, self.values.upper), self.steps)
        magnitude = arithmetic.raised(magnitude).cumsum(0)
        if arithmetic.unit:
            # Executed values differ from the joint of executed parts in each step; the last term is more
            # than the float64 additions here are off by.
            error = hold(arithmetic.raised(self.lost()), self.steps).cumsum(0) + 2.0**-48 * magnitude
            low, high, magnitude = low - error, high + error, magnitude * (1 + 2.0**-20)
        times = step_numbers(low, self.steps).repeat_interleave(low.shape[1])
        ends = Interval(low.flatten(0, 1), high.flatten(0, 1))
        low, high = arithmetic.resume(operators, Enclosure(ends, magnitude.flatten(0, 1)), times)
        rows = (self.steps, -1)
        return Summed(Interval(low.unflatten(0, rows), high.unflatten(0, rows)))


@final
@dataclass(frozen=True)
class Added(Join):
    """Sums, in the order of the links."""

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, parts)

    def lost(self) -> Tensor:
        sums = self.outputs[0]
        error = torch.zeros_like(sums.lower)
        for output in self.outputs[1:]:
            sums = Interval(sums.lower + output.lower, sums.upper + output.upper)
            # The result of an addition is within half a unit in its last place of the exact sum.
            size = torch.maximum(-sums.lower, sums.upper)
            error = error + (self.arithmetic.unit * (1 + 2.0**-20) * size + UNDERFLOW)
        return error


@final
@dataclass(frozen=True)
class Joined(Join):
    """Values side by side, along channels."""

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        frames = max(len(part) for part in parts)
        return torch.cat([hold(part, frames) for part in parts], 2)

    def lost(self) -> Tensor:
        return torch.zeros_like(self.values.lower)


def settled(join: Join) -> Source:
    """The join, or what it holds at every step."""
    low, high = join.box()
    return Held(Interval(low[0], high[0]), join.steps) if len(low) == 1 else join
