"""Whether float32 can overflow in a network: the rounding terms of certificates hold only where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from certsnn.affine import Affine
from certsnn.networks import Program
from certsnn.neurons import Dynamics

LARGEST = 1e38
"""A third of the largest float32: sums up to here stay finite, whatever they are rounded to on the way."""


def check_range(program: Program, largest: float, steps: int) -> None:
    """Bound every partial sum of the forward pass.

    Args:
        program: the network.
        largest: the largest magnitude of an input.
        steps: T.

    Raises:
        ValueError: if a sum may exceed `LARGEST`, or a weight is so large that its bound is not finite.
    """
    for stage in program.stages:
        current = _reach(stage.operators, largest)
        _require(_membrane(stage.neuron, current, steps))
        largest = 1.0
    _require(_reach(program.readout, 1.0))


def _reach(operators: Sequence[Affine], largest: float) -> float:
    """A bound of the outputs of a chain of operators, and of the partial sums on the way."""
    for operator in operators:
        bias = 0.0 if operator.bias is None else float(operator.bias.detach().abs().max())
        largest = max(operator.gain * largest + bias, largest)
    return largest


def _membrane(neuron: Dynamics, current: float, steps: int) -> float:
    """A bound of the magnitude of membranes over all steps."""
    initial, decay, gain, offset = (
        float(value.detach().abs().max())
        for value in (neuron.initial, neuron.decay, neuron.gain, neuron.offset)
    )
    v = largest = initial
    for _ in range(steps):
        u = v + current
        v = max(decay, gain) * u + offset
        largest = max(largest, u, v)
    return largest


def _require(size: float) -> None:
    if not math.isfinite(size) or size > LARGEST:
        raise ValueError(
            f"sums in this network may reach {size:.1e}, where float32 overflows: nothing can be certified; "
            "scale the weights down, or use rounding=False for bounds without that guarantee"
        )
