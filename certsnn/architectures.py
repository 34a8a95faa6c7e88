"""Named architectures: functions from the data's shape to a list of layers.

``reference-fc`` and ``reference-conv`` are those of the S-IBP / S-CROWN paper (Liang et al., 2022,
https://arxiv.org/abs/2205.01625); their neuron is ``LIF(0.25, 0.25)``, T = 10, with the rate readout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from math import prod
from typing import Literal

from torch import nn

from certsnn.errors import ConfigError
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron
from certsnn.readouts import ReadoutName

MakeNeuron = Callable[[], Neuron]
Body = Callable[[Sequence[int], MakeNeuron], tuple[list[nn.Module], int]]
"""From the shape ``(C, H, W)`` of a sample and the neuron: hidden layers, and their number of features."""


def fully_connected(*hidden: int) -> Body:
    """Flatten, then Linear layers of these widths, each followed by neurons."""

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples ``(C, H, W)``, and the width of the last."""
        layers: list[nn.Module] = [nn.Flatten()]
        widths = (prod(shape), *hidden)
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), neuron()]
        return layers, widths[-1]

    return body


def convolutional(channels: Sequence[tuple[int, int]], hidden: Sequence[int]) -> Body:
    """3x3 convolutions (channels, stride) with padding 1, then Linear layers, each followed by neurons."""

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples ``(C, H, W)``, and the width of the last."""
        depth, height, width = shape
        layers: list[nn.Module] = []
        for outputs, stride in channels:
            layers += [nn.Conv2d(depth, outputs, 3, stride, padding=1), neuron()]
            depth, height, width = outputs, (height - 1) // stride + 1, (width - 1) // stride + 1
        head, features = fully_connected(*hidden)((depth, height, width), neuron)
        return layers + head, features

    return body


def plain(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers as they are."""
    return list(layers)


def batch_normalised(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers with batch norm after each Linear and Conv2d."""
    normalised: list[nn.Module] = []
    for layer in layers:
        normalised.append(layer)
        if isinstance(layer, nn.Linear):
            normalised.append(nn.BatchNorm1d(layer.out_features))
        elif isinstance(layer, nn.Conv2d):
            normalised.append(nn.BatchNorm2d(layer.out_channels))
    return normalised


NORMS: Mapping[str, Callable[[Sequence[nn.Module]], list[nn.Module]]] = {
    "none": plain,
    "batch": batch_normalised,
}
"""The change of the hidden layers, by the name of the norm."""


ARCHITECTURES: Mapping[str, Body] = {
    "digits-fc": fully_connected(128, 128),
    "fc": fully_connected(256, 256),
    "wide-fc": fully_connected(512, 512),
    "small-cnn": convolutional([(16, 2), (32, 2)], [100]),
    "wide-cnn": convolutional([(32, 2), (64, 2)], [128]),
    "medium-cnn": convolutional([(32, 1), (32, 2), (64, 1), (64, 2)], [256]),
    "reference-fc": fully_connected(512, 256),
    "reference-conv": convolutional([(64, 2), (128, 2)], [256]),
}
"""The hidden layers of each architecture; a last Linear layer (and the rate readout's neuron) follow."""


def build(
    architecture: str,
    shape: Sequence[int],
    classes: int,
    neuron: MakeNeuron,
    steps: int,
    readout: ReadoutName = "membrane",
    input: Literal["image", "spikes"] = "image",
    norm: Literal["none", "batch"] = "none",
) -> SpikingNetwork:
    """A network of a named architecture for samples ``(C, H, W)`` of K ``classes``.

    Raises:
        ConfigError: if no architecture has this name.
    """
    if architecture not in ARCHITECTURES:
        near = get_close_matches(architecture, ARCHITECTURES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"no architecture is called {architecture!r}{hint} Known: {known}")
    layers, features = ARCHITECTURES[architecture](shape, neuron)
    layers = [*NORMS[norm](layers), nn.Linear(features, classes)]
    if readout == "rate":
        layers.append(neuron())
    return SpikingNetwork(layers, steps, readout, input)
