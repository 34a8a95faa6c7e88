"""Networks and inputs that are odd: extreme numbers, other layouts and dtypes, modules changed since.

Each oddity changes an `Example`. Bounds must then hold, or be refused with a message of certsnn's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from strategies import WAYS, Example, examples
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron

Numbers = torch.Generator


@dataclass(frozen=True)
class Odd:
    """An example, and what is odd about it."""

    example: Example
    oddity: str

    def __repr__(self) -> str:
        return f"Odd({self.oddity}, {self.example!r})"


def weighted(network: SpikingNetwork) -> list[nn.Linear | nn.Conv2d]:
    """The layers with weights."""
    return [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def some(network: SpikingNetwork, numbers: Numbers) -> nn.Linear | nn.Conv2d:
    """One of the layers with weights."""
    layers = weighted(network)
    return layers[int(torch.randint(len(layers), (), generator=numbers))]


def some_neuron(network: SpikingNetwork, numbers: Numbers) -> Neuron:
    """One of the layers of neurons."""
    neurons = [layer for layer in network.modules() if isinstance(layer, Neuron)]
    return neurons[int(torch.randint(len(neurons), (), generator=numbers))]


def scaled(low: int, high: int) -> Callable[[Example, Numbers], Example]:
    """The weights of a layer times a power of two."""

    def change(example: Example, numbers: Numbers) -> Example:
        layer = some(example.network, numbers)
        with torch.no_grad():
            layer.weight.mul_(2.0 ** int(torch.randint(low, high, (), generator=numbers)))
        return example

    return change


def balanced(example: Example, numbers: Numbers) -> Example:
    """Two layers scaled against each other, with subnormal weights and sums near the limits."""
    layers = weighted(example.network)
    power = int(torch.randint(90, 140, (), generator=numbers))
    with torch.no_grad():
        layers[0].weight.mul_(2.0 ** (power - 20))
        layers[-1].weight.mul_(2.0**-power)
    return example


def not_finite(example: Example, numbers: Numbers) -> Example:
    """A weight that is no number."""
    weight = some(example.network, numbers).weight
    with torch.no_grad():
        place = int(torch.randint(weight.numel(), (), generator=numbers))
        weight.view(-1)[place] = [float("nan"), float("inf"), -float("inf")][place % 3]
    return example


def per_neuron(example: Example, numbers: Numbers) -> Example:
    """Two thresholds, set after construction: they fit some layers."""
    neuron = some_neuron(example.network, numbers)
    neuron.threshold = nn.Parameter(torch.rand(2, generator=numbers) + 0.1)
    return example


def misfit(example: Example, numbers: Numbers) -> Example:
    """More initial potentials than any layer has neurons."""
    neuron = some_neuron(example.network, numbers)
    neuron.initial = torch.rand(977, generator=numbers)
    return example


def parametrised(example: Example, numbers: Numbers) -> Example:
    """A layer whose weights are computed, the network left in train mode."""
    layer = some(example.network, numbers)
    (parametrizations.spectral_norm if layer.weight.ndim == 2 else parametrizations.weight_norm)(layer)
    example.network.train()
    return example


class Negated(nn.Linear):
    """A subclass of Linear that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def stale(example: Example, numbers: Numbers) -> Example:
    """A layer that does more than its class: by a hook, a forward of its own or a subclass."""
    layer = some(example.network, numbers)
    way = int(torch.randint(3, (), generator=numbers))
    if way == 0:
        layer.register_forward_hook(lambda module, args, output: -output)
    elif way == 1 or isinstance(layer, nn.Conv2d):
        layer.forward = lambda x: x  # type: ignore[method-assign, assignment]
    else:
        layer.__class__ = Negated
    return example


def dtype(kind: torch.dtype) -> Callable[[Example, Numbers], Example]:
    """The input in another dtype."""
    return lambda example, numbers: replace(example, x=example.x.to(kind))


def channels_last(example: Example, numbers: Numbers) -> Example:
    """Images and weights in the layout that GPUs like."""
    network = example.network.to(memory_format=torch.channels_last)
    if example.x.ndim == 4:
        return replace(example, network=network, x=example.x.contiguous(memory_format=torch.channels_last))
    return replace(example, network=network)


def strided(example: Example, numbers: Numbers) -> Example:
    """An input that is a view with gaps."""
    return replace(example, x=example.x.repeat_interleave(2, -1)[..., ::2])


ODDITIES: Mapping[str, Callable[[Example, Numbers], Example]] = {
    "huge weights": scaled(40, 128),
    "tiny weights": scaled(-150, -60),
    "balanced": balanced,
    "not finite": not_finite,
    "per neuron": per_neuron,
    "misfit": misfit,
    "parametrised": parametrised,
    "stale": stale,
    "float64": dtype(torch.float64),
    "float16": dtype(torch.float16),
    "uint8": dtype(torch.uint8),
    "bool": dtype(torch.bool),
    "channels last": channels_last,
    "strided": strided,
}
REFUSED = frozenset({"not finite", "misfit", "stale"})
"""What can't be bounded, and has to be refused each time."""


@st.composite
def odd_examples(draw: st.DrawFn, most: int = 3) -> Odd:
    """An example with one oddity."""
    name = draw(st.sampled_from(sorted(ODDITIES)))
    example = draw(examples(WAYS, most))
    numbers = torch.Generator().manual_seed(example.seed)
    return Odd(ODDITIES[name](example, numbers), name)
