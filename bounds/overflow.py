"""Whether the executed network stays within the float model that bounds presume.

A sum must not overflow on the way, whatever its order. A certificate also needs products of few enough terms
for their rounding to be known. What is not provably so is refused, by the layer's name. Each condition is
written so that NaN fails it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from certsnn.affine import Affine
from certsnn.bounds.arithmetic import MOST_TERMS
from certsnn.networks import Program, Stage

MOST_STEPS = 2**20
"""Counts are exact in float32, and the rounding errors of their additions small, far beyond this."""
MOST_DOUBLINGS = 50
"""How often a reset may double what is lost to underflow: it stays far below the least threshold."""


@final
class Overflow(ValueError):
    """A sum of the network may leave the range of its dtype."""


Sized = list[tuple[Affine, torch.Size]]
"""Operators, each with the shape of one input of it."""


def _sized(operators: Sequence[Affine], x: Tensor) -> tuple[Sized, Tensor]:
    """The operators with their shapes, and what they make of the empty batch x."""
    found: Sized = []
    for operator in operators:
        found.append((operator, x.shape[1:]))
        x = operator.apply(x)
    return found, x


def _chains(program: Program, x0: Tensor) -> Iterator[tuple[str, Sized]]:
    """What leads to each layer of neurons, and to the logits."""
    frames, _ = program.input.frames(x0.narrow(program.input.batch_axis, 0, 0), None)
    x = frames[0]
    for stage in program.stages:
        chain, x = _sized(stage.operators, x)
        yield stage.name, chain
    yield "the readout", _sized(program.readout, x)[0]


def largest_number(program: Program, x0: Tensor, largest: float, steps: int) -> float:
    """A bound of the inputs, activations and rows of weights of a network.

    Args:
        program: the network.
        x0: its input; only the shape and the dtype matter.
        largest: the largest magnitude of an input.
        steps: T.

    Raises:
        ValueError: for numbers that are not finite.
        Overflow: if a sum may reach a third of the largest number of the dtype.
    """
    limit = torch.finfo(x0.dtype).max / 3
    _require(largest, limit, "the input set")
    reached = [largest]
    stages = [*program.stages, None]
    for (name, chain), stage in zip(_chains(program, x0), stages, strict=True):
        for operator, shape in chain:
            gain = operator.gain
            bias = 0.0 if operator.bias is None else float(operator.bias.detach().abs().max())
            if not (gain < math.inf and bias < math.inf):
                raise ValueError(
                    f"weights before {name} are NaN or infinite, as stored or once batch norm is folded into "
                    "them; nothing can be bounded"
                )
            # Partial sums, in any order, are at most the sum of magnitudes.
            _require(operator.summed(shape) * largest + bias, limit, f"sums before {name}")
            largest = gain * largest + bias
            reached += [largest, gain]
        if stage is not None:
            _require(_membrane(stage, largest, steps), limit, f"the membranes of {name}")
            largest = 1.0
    return max(reached)


def check_float_model(program: Program, x0: Tensor, steps: int) -> None:
    """Raise ValueError unless the rounding terms of certificates cover the network; arguments as above."""
    if steps > MOST_STEPS:
        raise ValueError(f"certificates cover up to {MOST_STEPS} steps, not {steps}")
    for name, chain in _chains(program, x0):
        terms = max((operator.terms(shape) for operator, shape in chain), default=0)
        if terms > MOST_TERMS:
            raise ValueError(
                f"a product before {name} sums up {terms} terms, and certificates cover at most "
                f"{MOST_TERMS}; use smaller layers, or rounding=False"
            )
    for stage in program.stages:
        threshold, decay, initial, gain, offset = _numbers(stage)
        least = torch.finfo(torch.float32).tiny
        if any(0 < value < least for value in (threshold, decay, initial, gain, offset)):
            raise ValueError(
                f"a parameter of {stage.name} is subnormal, which some processors take as 0; set it to 0"
            )
        if not steps * math.log2(max(1.0, gain)) <= MOST_DOUBLINGS:
            raise ValueError(
                f"the reset of {stage.name} multiplies membranes by up to {gain:g} in each of {steps} steps, "
                "which enlarges what is lost to underflow too far; use a smaller gain or fewer steps"
            )


def _numbers(stage: Stage) -> list[float]:
    """The magnitudes of threshold, decay, initial potential, gain and offset."""
    found = [float(value.detach().abs()) for value in stage.neuron[:5]]
    if not all(math.isfinite(value) for value in found):
        raise ValueError(f"a parameter of {stage.name} is NaN or infinite")
    return found


def _membrane(stage: Stage, current: float, steps: int) -> float:
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
