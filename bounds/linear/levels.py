"""The nodes of a program as a backward pass sees them, from the interval bounds of their values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple, final

import torch
from torch import Tensor

from certsnn.bounds.interval.arithmetic import UNDERFLOW, Interval
from certsnn.bounds.interval.layers import Layer, Source
from certsnn.bounds.linear.backward import (
    Chain,
    Constant,
    Coupling,
    Firing,
    Forms,
    Level,
    Spread,
    chain,
    magnitudes,
    membrane_error,
    missed,
)
from certsnn.bounds.linear.maximum import Maxima, maxima
from certsnn.bounds.linear.relaxation import Relaxation
from certsnn.bounds.problem import Problem
from certsnn.program import Concatenation, Link, Maximum, Node, Program, Stage, Sum, hold


@dataclass(frozen=True)
class Meeting(Level, ABC):
    """Several links' outputs together; ``error [F, B, ...]`` as in `Firing`, of the executed values."""

    sources: Sequence[int]
    couplings: Sequence[Coupling]
    error: Tensor | None

    @abstractmethod
    def parts(self, a: Tensor) -> Sequence[Tensor]:
        """The coefficients of each link's outputs, from those of the values."""

    @final
    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms
        if self.error is not None:
            error = error + missed(a, self.error)
        found = []
        for source, coupling, part in zip(self.sources, self.couplings, self.parts(a), strict=True):
            carried, constant, error = coupling.pull(Forms(part, constant, error))
            found.append((source, carried))
        return Spread(found, constant, error)


@final
@dataclass(frozen=True)
class Adding(Meeting):
    """The sum of the links' outputs."""

    def parts(self, a: Tensor) -> Sequence[Tensor]:
        return [a] * len(self.sources)


@final
@dataclass(frozen=True)
class Joining(Meeting):
    """The links' outputs side by side, ``sizes`` of them along channels."""

    sizes: Sequence[int]

    def parts(self, a: Tensor) -> Sequence[Tensor]:
        return torch.split(a, list(self.sizes), 3)


@final
@dataclass(frozen=True)
class Pooling(Level):
    """Maxima over windows of a link's outputs; ``error [F, B, ...]`` of those as in `Adding`."""

    source: int
    coupling: Coupling
    maxima: Maxima
    error: Tensor | None

    def pull(self, forms: Forms) -> Spread:
        a, constant, error = forms
        k, more = self.maxima.pull(a)
        if self.error is not None:
            error = error + self.maxima.lost(a)
            error = error + missed(k, self.error)
        carried, constant, error = self.coupling.pull(Forms(k, constant + more, error))
        return Spread([(self.source, carried)], constant, error)


class Known(NamedTuple):
    """What the levels of a problem are made of: bounds of all values, as `Program.values` counts them."""

    problem: Problem
    sources: Sequence[Source]
    relaxation: Relaxation

    def chain(self, link: Link) -> Chain:
        """A link's operators."""
        return chain(link.operators, magnitudes(self.sources[link.source])[0], self.problem.arithmetic)

    def coupling(self, link: Link) -> Coupling:
        """What carries forms of a link's outputs to its source."""
        found = self.chain(link)
        return Constant(found) if self.problem.held[link.source] else found

    def lost(self, link: Link) -> Tensor:
        """How far a link's executed outputs may be from exact ones, ``[F, B, ...]``."""
        size = magnitudes(self.sources[link.source])
        lost: Tensor = self.problem.arithmetic.lost(link.operators, size.flatten(0, 1))
        return lost.reshape(*size.shape[:2], *lost.shape[1:])


@singledispatch
def level_of(node: Node, values: Source, known: Known) -> Level:
    """The level of a node; register a function here to add a class of nodes.

    Args:
        node: the node.
        values: bounds of its values.
        known: what else there is.

    Raises:
        TypeError: for a node that has no backward pass.
    """
    raise _without_level(node)


def has_level(node: Node) -> bool:
    """Whether there is a level of a node."""
    return level_of.dispatch(type(node)) is not level_of.dispatch(object)


def _without_level(node: Node) -> TypeError:
    return TypeError(f"S-CROWN has no backward pass for {type(node).__name__} ({node.name}); use s-ibp")


@level_of.register
def _(node: Stage, values: Layer, known: Known) -> Level:
    arithmetic, (source, operators) = known.problem.arithmetic, (node.link.source, node.link.operators)
    membranes = Interval(*(arithmetic.raised(end) for end in values.membranes))
    size = magnitudes(known.sources[source])
    error = membrane_error(operators, size, membranes, node.neuron, arithmetic)
    return Firing(source, known.coupling(node.link), known.relaxation(membranes, node.neuron), error)


@level_of.register
def _(node: Sum, values: Source, known: Known) -> Level:
    sources, couplings = zip(*((link.source, known.coupling(link)) for link in node.links), strict=True)
    return Adding(sources, couplings, lost_in_sum(node, known))


def lost_in_sum(node: Sum, known: Known) -> Tensor | None:
    """How far an executed sum may be from the exact sum of exact outputs: products, and each addition."""
    arithmetic = known.problem.arithmetic
    if not arithmetic.unit:
        return None
    error, partial = None, None
    for link in node.links:
        low, high = known.sources[link.source].currents(link.operators, arithmetic)
        lost = known.lost(link)
        if error is None or partial is None:
            error, partial = lost, Interval(low, high)
            continue
        partial = Interval(partial.lower + low, partial.upper + high)
        size = torch.maximum(-partial.lower, partial.upper)
        # An addition rounds by at most a unit of its result, which may itself be off by what came before.
        error = (error + lost + arithmetic.unit * size) * (1 + 2.0**-20) + UNDERFLOW
    return error


@level_of.register
def _(node: Concatenation, values: Source, known: Known) -> Level:
    sources, couplings = zip(*((link.source, known.coupling(link)) for link in node.links), strict=True)
    sizes = [known.chain(link).outputs[0] for link in node.links]
    return Joining(sources, couplings, lost_beside(node, known), sizes)


def lost_beside(node: Concatenation, known: Known) -> Tensor | None:
    """How far executed outputs may be from exact ones, side by side: by their products."""
    if not known.problem.arithmetic.unit:
        return None
    parts = [known.lost(link) for link in node.links]
    frames = max(map(len, parts))
    return torch.cat([hold(part, frames) for part in parts], 2)


@level_of.register
def _(node: Maximum, values: Source, known: Known) -> Level:
    (link,) = node.links
    arithmetic = known.problem.arithmetic
    ends = known.sources[link.source].currents(link.operators, arithmetic)
    # The executed outputs lie within their bounds, and are off from the exact ones by at most `lost`.
    error = known.lost(link) if arithmetic.unit else None
    return Pooling(link.source, known.coupling(link), maxima(node.pool, ends), error)


def check_levels(program: Program) -> None:
    """Raise TypeError for a program with a node that has no backward pass; before any work."""
    for node in program.nodes:
        if not has_level(node):
            raise _without_level(node)


def levels_of(problem: Problem, sources: Sequence[Source], relaxation: Relaxation) -> list[Level]:
    """The levels of a backward pass, first to last, from the bounds of all values."""
    known = Known(problem, sources, relaxation)
    return [
        level_of(node, values, known) for node, values in zip(problem.program.nodes, sources[1:], strict=True)
    ]
