"""Small random networks and input sets, and bounds of their margins by every method."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from certsnn.bounds import METHODS
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.linear.margins import backward_margins, interval_bounds
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import CoupledBernoulli, InputSet, LinfBall, SpikeBox, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Reset

OURS = [name for name in METHODS if not name.startswith("auto-lirpa")]
RELAXED: tuple[Literal["joint"], Literal["separate"]] = ("joint", "separate")


def dense(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    linear = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    linear.weight.data = torch.tensor(weight)
    if bias is not None:
        linear.bias.data = torch.tensor(bias)
    return linear


def train(*steps: list[float]) -> Tensor:
    """One sample's spikes ``[T, 1, n]``."""
    return torch.tensor(steps)[:, None]


def problem_of(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, arithmetic: Arithmetic = PLAIN
) -> Problem:
    return pose(network.freeze(), x0, y, input_set, arithmetic)


def every_bound(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, method: str
) -> Iterator[tuple[Tensor, float]]:
    """Margin bounds ``[B, K-1]`` in all modes, each with the tolerance of its arithmetic.

    Slopes are hardly optimised: none that is tried on the way may be unsound.
    """
    assert set(RELAXED) == set(RELAXATIONS)
    for arithmetic, tolerance in ((PLAIN, 1e-5), (RIGOROUS, 0.0)):
        for relaxation in RELAXED:
            options = BoundOptions(relaxation=relaxation, iterations=1)
            problem = problem_of(network, x0, y, input_set, arithmetic)
            yield METHODS[method](problem, options).detach(), tolerance


def others(y: Tensor, classes: int) -> Tensor:
    return torch.tensor([[j for j in range(classes) if j != label] for label in y.tolist()])


@torch.no_grad()
def least_margins(network: SpikingNetwork, y: Tensor, members: list[Tensor]) -> Tensor:
    """``[B, K-1]``, the least over some members of the input set."""
    least = []
    for x in members:
        logits = network(x).double()
        least.append(logits.gather(1, y[:, None]) - logits.gather(1, others(y, logits.shape[1])))
    return torch.stack(least).amin(0)


INPUTS = 4


def random_neuron(draw: random.Random, threshold: float) -> Neuron:
    resets: list[Reset] = ["zero", "subtract", 0.4 * threshold, -0.5 * threshold, (0.0, 0.8 * threshold)]
    resets += [(0.5, -0.3 * threshold), (1.0, -1.2 * threshold), (1.3, -0.8 * threshold)]
    reset, initial = draw.choice(resets), threshold * draw.choice([0, 0, 0.5, -0.5])
    if draw.random() < 0.25:
        return IF(threshold, reset, initial=initial)
    return LIF(threshold, draw.choice([0.5, 0.5, 0.9, 0.0, 1.0]), reset, initial=initial)


def random_network(
    seed: int, kind: Literal["image", "spikes"], readout: Literal["rate", "membrane"] = "membrane"
) -> SpikingNetwork:
    """One or two hidden layers of all kinds of neurons, three classes: many spikes are undecided."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    threshold, sizes = 0.25, [INPUTS, *[8] * draw.choice([1, 2, 2]), 3]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        linear.bias.data = threshold * (torch.rand(outputs) - 0.2) / 2
        layers += [linear, random_neuron(draw, threshold)]
    layers = layers if readout == "rate" else layers[:-1]
    return SpikingNetwork(layers, draw.choice([2, 3, 4]), readout, kind).eval()


def random_images(seed: int) -> Tensor:
    return torch.rand(2, INPUTS, generator=torch.Generator().manual_seed(seed))


def random_spikes(network: SpikingNetwork, seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(network.steps, batch, INPUTS, generator=generator) < 0.5).float()


def random_set(seed: int, x0: Tensor) -> InputSet:
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    if draw.random() < 0.5:
        kinds: list[Literal["any", "add", "drop"]] = ["any", "add", "drop"]
        return SpikeFlips(draw.choice([1, 2]), draw.choice(kinds))
    free = (torch.rand(x0.shape, generator=generator) < 0.3).float()
    return SpikeBox(x0 * (1 - free), torch.maximum(x0, free))


def raw_margins(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, relaxation: str = "joint"
) -> Tensor:
    """One backward pass, before S-IBP's margins are taken in."""
    problem = problem_of(network, x0, y, input_set)
    _, sources = interval_bounds(problem)
    return backward_margins(problem, sources, RELAXATIONS[relaxation])


def images_around(x0: Tensor, ball: LinfBall, count: int, seed: int) -> list[Tensor]:
    """Members of a ball, half of them corners."""
    generator = torch.Generator().manual_seed(seed)
    low, high = ball.box(x0)
    part = torch.rand(count, *x0.shape, generator=generator)
    part[: count // 2] = part[: count // 2].round()
    return [ball.project(x0, low + p * (high - low)) for p in part]


THREATS: dict[str, Threat] = {
    "flips": SpikeFlips(2),
    "ball": LinfBall(0.05),
    "coupled": CoupledBernoulli(0.05, 3),
}


def labels(batch: int) -> Tensor:
    return torch.arange(batch) % 3
