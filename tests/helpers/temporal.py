"""What a network may have that acts over time, drawn around neurons; and the backward pass through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import Arithmetic
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.margins import backward_margins
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.filters import Synapse
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent

Weigh = Callable[[nn.Linear | nn.Conv2d], nn.Module]
"""Gives a layer its weights."""


def decays(exact: bool, steps: int) -> Sequence[float]:
    """Decays of filters; the exact ones halve a number no more often than float32 has bits for."""
    if exact:
        return [1.0, 0.0, 0.5] if steps <= 3 else [1.0, 0.0]
    return [0.9, 0.3, 1.0, 0.0]


def readouts(graphs: bool) -> st.SearchStrategy[ReadoutName]:
    """A readout: of chains the means alone."""
    means: list[ReadoutName] = ["rate", "membrane"]
    others: list[ReadoutName] = ["sum", "last", "maximum"]
    return st.sampled_from([*means, *others] if graphs else means)


@st.composite
def synapses(draw: st.DrawFn, numbers: Sequence[float], shape: Sequence[int]) -> Synapse:
    """A filter of currents of a shape: one decay, or one for each channel."""
    if draw(st.booleans()):
        return Synapse(draw(st.sampled_from(numbers)))
    channels = draw(st.lists(st.sampled_from(numbers), min_size=shape[0], max_size=shape[0]))
    return Synapse(torch.tensor(channels).view(-1, *[1] * (len(shape) - 1)))


@st.composite
def timed(
    draw: st.DrawFn, neuron: Neuron, numbers: Sequence[float], shape: Sequence[int], weigh: Weigh
) -> nn.Module:
    """Neurons as they are, with a filter before them, with feedback, or with both."""
    found: nn.Module = neuron
    way = draw(st.sampled_from(["plain", "filter", "feedback", "both"]))
    if way in ("feedback", "both"):
        bias, size = draw(st.booleans()), shape[0]
        layer: nn.Linear | nn.Conv2d = nn.Linear(size, size, bias=bias)
        if len(shape) == 3:
            layer = nn.Conv2d(size, size, (1, 3), padding=(0, 1), bias=bias)
        found = Recurrent(neuron, weigh(layer))
    return found if way in ("plain", "feedback") else nn.Sequential(draw(synapses(numbers, shape)), found)


def spike_trains(steps: int, bits: int) -> Tensor:
    """All 0/1 inputs ``[T, N, bits]``."""
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * (steps * bits))
    return rows.view(-1, steps, bits).movedim(1, 0)


def backward(network: SpikingNetwork, x: Tensor, y: Tensor, threat: Threat, arithmetic: Arithmetic) -> Tensor:
    """Margins of the backward pass alone, not made better by S-IBP's."""
    x0, input_set = threat.bind(x, torch.arange(len(y)))
    problem = pose(network.freeze(), x0, y, input_set, arithmetic)
    with torch.no_grad():
        return backward_margins(problem, propagate(problem, feasible_flips), RELAXATIONS["joint"])
