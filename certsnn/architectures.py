"""Named architectures: functions from the data's shape to a list of layers.

``reference-fc`` and ``reference-conv`` are those of the S-IBP / S-CROWN paper (Liang et al., 2022,
https://arxiv.org/abs/2205.01625); their neuron is ``LIF(0.25, 0.25)``, T = 10, with the rate readout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise, zip_longest
from math import prod
from typing import Literal, final

from torch import nn

from certsnn.errors import ConfigError
from certsnn.graph import Residual
from certsnn.inputs import Domain
from certsnn.networks import SpikingNetwork
from certsnn.neurons import Neuron
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent

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
        if len(shape) != 3:
            raise ConfigError(
                f"convolutions take samples (C, H, W), and these have the shape {list(shape)} at each step: "
                "name a fully connected architecture, such as fc"
            )
        depth, height, width = shape
        layers: list[nn.Module] = []
        for outputs, stride in channels:
            layers += [nn.Conv2d(depth, outputs, 3, stride, padding=1), neuron()]
            depth, height, width = outputs, (height - 1) // stride + 1, (width - 1) // stride + 1
        head, features = fully_connected(*hidden)((depth, height, width), neuron)
        return layers + head, features

    return body


def pooled(*stages: Sequence[int], hidden: Sequence[int]) -> Body:
    """VGG-like: in each stage 3x3 convolutions of these channels with neurons, the last with max pooling.

    The 2x2 maxima are those of currents, before the neurons, as in snnTorch's tutorials.
    """

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples ``(C, H, W)``, and the width of the last."""
        depth, height, width = shape
        layers: list[nn.Module] = []
        for stage in stages:
            for outputs in stage:
                layers += [nn.Conv2d(depth, outputs, 3, padding=1), neuron()]
                depth = outputs
            layers.insert(-1, nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        head, features = fully_connected(*hidden)((depth, height, width), neuron)
        return layers + head, features

    return body


def residual(block: Block, depth: int, channels: int, stride: int) -> Body:
    """A ResNet of 6 k + 2 layers for small images (He et al., 2016, https://arxiv.org/abs/1512.03385).

    A convolution, three stages of k blocks of two convolutions each (the channels double and the maps halve
    from stage to stage), a global mean.

    Args:
        block: what a block is made of.
        depth: 8, 14, 20 ...
        channels: of the first stage.
        stride: of the first convolution.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"the depth of a ResNet for small images is 6 k + 2 with k >= 1, not {depth}")

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples ``(C, H, W)``, and the width of the last."""
        layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, stride, padding=1)]
        layers += block.begin(neuron)
        width = channels
        for outputs in (channels, 2 * channels, 4 * channels):
            for _ in range(blocks):
                layers.append(block.make(width, outputs, 1 if width == outputs else 2, neuron))
                width = outputs
        return [*layers, *block.end(neuron), nn.AdaptiveAvgPool2d(1), nn.Flatten()], width

    return body


class Block(ABC):
    """The residual blocks of a spiking ResNet."""

    @abstractmethod
    def begin(self, neuron: MakeNeuron) -> list[nn.Module]:
        """What follows the first convolution."""

    @abstractmethod
    def make(self, inputs: int, outputs: int, stride: int, neuron: MakeNeuron) -> Residual:
        """A block from maps of ``inputs`` channels to those of ``outputs``."""

    @abstractmethod
    def end(self, neuron: MakeNeuron) -> list[nn.Module]:
        """What follows the last block."""


@final
class SpikeShortcut(Block):
    """SEW-ResNet: spikes are added (Fang et al., 2021, https://arxiv.org/abs/2102.04159)."""

    def begin(self, neuron: MakeNeuron) -> list[nn.Module]:
        return [neuron()]

    def make(self, inputs: int, outputs: int, stride: int, neuron: MakeNeuron) -> Residual:
        first = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        projection = [nn.Conv2d(inputs, outputs, 1, stride), neuron()] if inputs != outputs else []
        return Residual([first, neuron(), second, neuron()], projection)

    def end(self, neuron: MakeNeuron) -> list[nn.Module]:
        return []


@final
class MembraneShortcut(Block):
    """MS-ResNet: currents are added (Hu et al., 2024, https://arxiv.org/abs/2112.08954)."""

    def begin(self, neuron: MakeNeuron) -> list[nn.Module]:
        return []

    def make(self, inputs: int, outputs: int, stride: int, neuron: MakeNeuron) -> Residual:
        first = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        second = nn.Conv2d(outputs, outputs, 3, padding=1)
        projection = [nn.Conv2d(inputs, outputs, 1, stride)] if inputs != outputs else []
        return Residual([neuron(), first, neuron(), second], projection)

    def end(self, neuron: MakeNeuron) -> list[nn.Module]:
        return [neuron()]


def event_blocks(channels: int, blocks: int, hidden: Sequence[int]) -> Body:
    """Blocks of convolution, batch norm, neurons and 2x2 max pooling, then Linear layers with neurons.

    With 128 channels, 5 blocks and 512 features it is SpikingJelly's network for DVS-Gesture (Fang et al.,
    *Incorporating Learnable Membrane Time Constant to Enhance Learning of Spiking Neural Networks*, 2021,
    https://arxiv.org/abs/2007.05785).
    """

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples ``(C, H, W)``, and the width of the last."""
        depth, height, width = shape
        layers: list[nn.Module] = []
        for _ in range(blocks):
            convolution = nn.Conv2d(depth, channels, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels), neuron(), nn.MaxPool2d(2)]
            depth, height, width = channels, height // 2, width // 2
        head, features = fully_connected(*hidden)((depth, height, width), neuron)
        return layers + head, features

    return body


def recurrent(*hidden: int) -> Body:
    """For sequences: Linear layers of these widths, each followed by neurons that feed back on themselves."""

    def body(shape: Sequence[int], neuron: MakeNeuron) -> tuple[list[nn.Module], int]:
        """Hidden layers for samples of any shape, and the width of the last."""
        layers: list[nn.Module] = [nn.Flatten()]
        widths = (prod(shape), *hidden)
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), Recurrent(neuron(), nn.Linear(outputs, outputs))]
        return layers, widths[-1]

    return body


def plain(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers as they are."""
    return list(layers)


def batch_normalised(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers with batch norm after each Linear and Conv2d, inside of residual blocks too."""
    normalised: list[nn.Module] = []
    for layer, following in zip_longest(layers, layers[1:]):
        normalised.append(layer)
        if isinstance(following, (nn.BatchNorm1d, nn.BatchNorm2d)):
            continue
        if isinstance(layer, Residual):
            layer.body = nn.Sequential(*batch_normalised(list(layer.body)))
            layer.shortcut = nn.Sequential(*batch_normalised(list(layer.shortcut)))
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
    "vgg-small": pooled([8], [16], hidden=[100]),
    "vgg": pooled([32, 32], [64, 64], [128, 128], hidden=[256]),
    "sew-resnet-small": residual(SpikeShortcut(), 8, 8, 2),
    "sew-resnet-8": residual(SpikeShortcut(), 8, 16, 1),
    "sew-resnet-14": residual(SpikeShortcut(), 14, 16, 1),
    "sew-resnet-20": residual(SpikeShortcut(), 20, 16, 1),
    "ms-resnet-small": residual(MembraneShortcut(), 8, 8, 2),
    "ms-resnet-8": residual(MembraneShortcut(), 8, 16, 1),
    "ms-resnet-14": residual(MembraneShortcut(), 14, 16, 1),
    "ms-resnet-20": residual(MembraneShortcut(), 20, 16, 1),
    "dvs-gesture": event_blocks(128, 5, [512]),
    "dvs-gesture-small": event_blocks(16, 5, [128]),
    "recurrent": recurrent(64),
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
    input: Domain = "image",
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
