"""Whether the executed network stays within the float model that bounds presume.

A sum must not overflow on the way, whatever its order. A certificate also needs products of few enough terms
for their rounding to be known. What is not provably so is refused, by the layer's name. Each condition is
written so that NaN fails it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.interval.arithmetic import MOST_TERMS
from certsnn.program import Neurons, Program, as_logits

Shaped = tuple[tuple[Affine, torch.Size], ...]
"""Operators, each with the shape of one input of it."""

MOST_STEPS = 2**20
"""Counts are exact in float32, and the rounding errors of their additions small, far beyond this."""
MOST_DOUBLINGS = 50
"""How often a reset may double what is lost to underflow: it stays far below the least threshold."""


@final
class Overflow(ValueError):
    """A sum of the network may leave the range of its dtype."""


@final
@dataclass(frozen=True)
class Layout:
    """A network's operators as their shapes are for one input.

    ``nodes``: what leads to each node, link by link. ``feedback``: from each node's spikes to its currents.
    ``readout``: what leads to the logits. ``classes``: K.
    """

    program: Program
    nodes: tuple[tuple[Shaped, ...], ...]
    feedback: tuple[Shaped, ...]
    readout: Shaped
    classes: int

    def named(self) -> Iterator[tuple[str, Shaped]]:
        """All chains, each with the name of what it leads to."""
        for node, chains, back in zip(self.program.nodes, self.nodes, self.feedback, strict=True):
            yield from ((node.name, chain) for chain in (*chains, back))
        yield "the readout", self.readout


def layout(program: Program, x0: Tensor) -> Layout:
    """The layout for inputs like x0; raises ValueError, naming the layer, where shapes do not fit."""
    values = program.values(x0.narrow(program.input.batch_axis, 0, 0), steps=1)
    nodes = tuple(
        tuple(_shaped(link.operators, values[link.source])[0] for link in node.links)
        for node in program.nodes
    )
    feedback = tuple(
        _shaped(node.feedback, spikes)[0] if isinstance(node, Neurons) else ()
        for node, spikes in zip(program.nodes, values[1:], strict=True)
    )
    readout, logits = _shaped(program.readout.operators, values[program.readout.source])
    return Layout(program, nodes, feedback, readout, as_logits(logits).shape[1])


def _shaped(operators: Sequence[Affine], values: Tensor) -> tuple[Shaped, Tensor]:
    """Operators with the shapes of their inputs, and an empty batch of their outputs."""
    x, found = values.flatten(0, 1), []
    for operator in operators:
        found.append((operator, x.shape[1:]))
        x = operator.apply(x)
    return tuple(found), x


def largest_number(network: Layout, largest: float, limit: float, steps: int) -> float:
    """A bound of the inputs, activations and rows of weights of a network.

    Args:
        network: the network.
        largest: the largest magnitude of an input.
        limit: what no sum may exceed.
        steps: T.

    Raises:
        ValueError: for numbers that are not finite.
        Overflow: if a sum may exceed the limit.
    """
    _require(largest, limit, "inputs")
    reached, values = [largest], [largest]

    def through(name: str, size: float, chain: Shaped) -> float:
        """A bound of a chain's outputs for inputs of this size."""
        for operator, shape in chain:
            gain = operator.gain
            bias = 0.0 if operator.bias is None else float(operator.bias.detach().abs().max())
            if not (gain < math.inf and bias < math.inf):
                raise ValueError(
                    f"weights before {name} are NaN or infinite, as stored or once batch norm is folded into "
                    "them; nothing can be bounded"
                )
            # Partial sums, in any order, are at most the sum of magnitudes.
            _require(operator.summed(shape) * size + bias, limit, f"sums before {name}")
            size = gain * size + bias
            reached.extend((size, gain))
        return size

    program = network.program
    for node, chains, back in zip(program.nodes, network.nodes, network.feedback, strict=True):
        parts = [
            through(node.name, values[link.source], chain)
            for link, chain in zip(node.links, chains, strict=True)
        ]
        if isinstance(node, Neurons):
            current = parts[0] + (through(node.name, 1.0, back) if back else 0.0)
            _require(_membrane(node, current, steps), limit, f"the membranes of {node.name}")
        values.append(node.reach(parts, steps))
        _require(values[-1], limit, f"the values of {node.name}")
        reached.append(values[-1])
    size = values[program.readout.source]
    outputs = through("the readout", size, network.readout)
    _require(program.reading.reach(size, outputs, steps), limit, "sums over time")
    return max(reached)


def check_float_model(network: Layout, steps: int) -> None:
    """Raise ValueError unless the rounding terms of certificates cover the network, run for T steps."""
    if steps > MOST_STEPS:
        raise ValueError(f"certificates cover up to {MOST_STEPS} steps, not {steps}")
    for name, chain in network.named():
        terms = max((operator.terms(shape) for operator, shape in chain), default=0)
        if terms > MOST_TERMS:
            raise ValueError(
                f"a product before {name} sums up {terms} terms, and certificates cover at most "
                f"{MOST_TERMS}; use smaller layers, or rounding=False"
            )
    for stage in network.program.stages:
        _, _, _, gain, _ = _numbers(stage)
        least = torch.finfo(torch.float32).tiny
        sizes = (number.detach().abs() for number in stage.neuron.numbers())
        if any(bool(((size > 0) & (size < least)).any()) for size in sizes):
            raise ValueError(
                f"a parameter of {stage.name} is subnormal, which some processors take as 0; set it to 0"
            )
        if not steps * math.log2(max(1.0, gain)) <= MOST_DOUBLINGS:
            raise ValueError(
                f"the reset of {stage.name} multiplies membranes by up to {gain:g} in each of {steps} steps, "
                "which enlarges what is lost to underflow too far; use a smaller gain or fewer steps"
            )


def _numbers(stage: Neurons) -> list[float]:
    """The largest magnitudes of threshold, decay, initial potential, gain and offset over the neurons."""
    found = [float(number.detach().abs().max()) for number in stage.neuron.numbers()]
    if not all(math.isfinite(value) for value in found):
        raise ValueError(f"a parameter of {stage.name} is NaN or infinite")
    return found


def _membrane(stage: Neurons, current: float, steps: int) -> float:
    """A bound of the magnitude of membranes over all steps."""
    _, decay, initial, gain, offset = _numbers(stage)
    v = largest = initial
    for _ in range(steps):
        u, before = v + current, v
        v = max(decay, gain) * u + offset
        largest = max(largest, u, v)
        if v == before:
            break
    return largest


def _require(size: float, limit: float, what: str) -> None:
    if not size <= limit:
        raise Overflow(
            f"{what} may reach {size:.1e}; beyond {limit:.1e} they may overflow, and nothing can be "
            "certified. Scale the weights or the input down"
        )
