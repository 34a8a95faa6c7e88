"""Hypothesis strategies: random small networks with an input set around a batch of inputs.

Hypothesis draws the structure (which it can shrink); the numbers come from a seeded generator.
There are three kinds of numbers, because rounding and ties need different care:

- ``smooth``: normal weights; ties have probability zero.
- ``dyadic``: few-bit multiples of a dyadic threshold. All sums are exact in float32, so membranes
  meet the threshold exactly (``l = h``, ``h = threshold``, ``l = threshold``) and bounds need no
  tolerance at all.
- ``grid``: multiples of a tenth of a threshold like 0.3, inexact: ties that rounding errors decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from temporal import decays, readouts, synapses, timed
from torch import Tensor, nn

from certsnn.graph import Branches, Residual
from certsnn.inputs import Domain
from certsnn.inputsets import (
    CoupledBernoulli,
    EventChanges,
    FreeSpikes,
    LinfBall,
    LinfFrames,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
    Threat,
)
from certsnn.inputsets.flips import Kind
from certsnn.layers import Normalize
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Number, OrderName, Reset

Numbers = Literal["smooth", "dyadic", "grid"]
Way = Literal["linf", "flips", "free", "box", "coupled", "shifts", "frames", "events"]
FRAMES: tuple[Way, ...] = ("frames", "events")
WAYS: tuple[Way, ...] = ("linf", "flips", "free", "linf", "flips", "box", "coupled", "shifts", *FRAMES)
PIXEL = 1 / 16
"""Dyadic images and radii are multiples of this."""


@dataclass(frozen=True)
class Example:
    """A network in eval mode, a threat and a batch ``x`` as the threat takes it."""

    network: SpikingNetwork
    threat: Threat
    x: Tensor
    numbers: Numbers
    seed: int

    def __repr__(self) -> str:
        layers = ", ".join(str(layer) for layer in self.network.layers)
        return (
            f"Example({self.numbers}, seed={self.seed}, {self.threat.describe()}, "
            f"x={list(self.x.shape)}, steps={self.network.steps}, {self.network.readout}, "
            f"[{layers}])"
        )

    @property
    def exact(self) -> bool:
        """Whether all currents and membranes are computed without rounding errors."""
        return self.numbers == "dyadic"


class Drawn:
    """Weights and inputs of one kind from one seed."""

    def __init__(self, kind: Numbers, threshold: float, seed: int) -> None:
        self.kind, self.threshold = kind, threshold
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def weights(self, shape: torch.Size, fan_in: int) -> Tensor:
        if self.kind == "smooth":
            scale = self.threshold * 1.5 / math.sqrt(fan_in)
            return scale * torch.randn(shape, generator=self.generator)
        parts = 4 if self.kind == "dyadic" else 10
        steps = torch.randint(-parts, parts + 1, shape, generator=self.generator)
        # The product is taken in float32, as a user's grid would be.
        return steps * (self.threshold / parts)

    def images(self, shape: Sequence[int]) -> Tensor:
        x = self.uniform(*shape)
        if self.kind == "dyadic":
            return (x / PIXEL).round() * PIXEL
        return torch.where(self.uniform(*shape) < 0.2, (x > 0.5).float(), x)

    def spikes(self, shape: Sequence[int], rate: float) -> Tensor:
        return (self.uniform(*shape) < rate).float()


def _thresholds(numbers: Numbers) -> st.SearchStrategy[float]:
    return st.sampled_from(
        {
            "smooth": [1.0, 0.25, 0.3, 1e-6],
            "dyadic": [1.0, 0.5, 0.25, 0.75],
            "grid": [0.1, 0.3, 0.7],
        }[numbers]
    )


@st.composite
def _parameter(
    draw: st.DrawFn, values: Sequence[float], numbers: Drawn, shape: tuple[int, ...] | None
) -> Number:
    """One of the values for all neurons, or any of them for each channel or neuron of a sample's shape."""
    size: tuple[int, ...] | None = None
    if shape is not None:
        channels = (shape[0], *(1 for _ in shape[1:]))
        rows = (*shape[:-1], 1)
        size = draw(st.sampled_from([None, shape, channels, rows]))
    if size is None:
        return draw(st.sampled_from(values))
    picked = torch.randint(len(values), size, generator=numbers.generator)
    return torch.tensor(values)[picked]


@st.composite
def neurons(draw: st.DrawFn, numbers: Drawn, shape: tuple[int, ...] | None = None) -> Neuron:
    """LIF and IF with all resets, initial potentials and extreme decays, in both orders.

    Parameters are one number for all neurons, or differ, for samples of a shape.
    """
    threshold, exact = numbers.threshold, numbers.kind == "dyadic"
    shape = draw(st.sampled_from([None, shape]))

    def parameter(*values: float) -> Number:
        return draw(_parameter(values, numbers, shape))

    def share() -> Number:
        return parameter(*(part * threshold for part in (0.0, 0.5, -0.5, 1.0, 1.5)))

    initial = parameter(*(part * threshold for part in (0.0, 0.0, 0.5, -0.5, 1.0)))
    gains = (0.0, 0.5, 1.0, 1.5) if exact else (0.0, 0.3, 0.5, 1.0, 1.7)
    way = draw(st.sampled_from(["zero", "subtract", "value", "pair"]))
    resets: dict[str, Callable[[], Reset]] = {
        "zero": lambda: "zero",
        "subtract": lambda: "subtract",
        "value": share,
        "pair": lambda: (parameter(*gains), share()),
    }
    thresholds = threshold if shape is None else parameter(threshold, 1.5 * threshold, 2 * threshold)
    order: OrderName = draw(st.sampled_from(["reset-first", "current-first"]))
    if draw(st.booleans()):
        return IF(thresholds, resets[way](), initial=initial, order=order)
    decays = (0.5, 0.0, 1.0) if exact else (0.5, 0.0, 1.0, 0.25, 0.9)
    return LIF(thresholds, parameter(*decays), resets[way](), initial=initial, order=order)


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, numbers: Drawn) -> nn.Module:
    channels = norm.num_features
    norm.running_mean = numbers.uniform(channels) - 0.5
    norm.running_var = numbers.uniform(channels) + 0.05
    norm.weight.data = 2 * numbers.uniform(channels) - 0.8  # some negative: they swap the bounds
    norm.bias.data = numbers.threshold * (numbers.uniform(channels) - 0.5)
    return norm


def _weighted(layer: nn.Linear | nn.Conv2d, numbers: Drawn) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(numbers.weights(layer.weight.shape, layer.weight[0].numel()))
        if layer.bias is not None:
            layer.bias.copy_(numbers.weights(layer.bias.shape, 4) / 2)
    return layer


def _shape_after(layers: Sequence[nn.Module], shape: Sequence[int]) -> tuple[int, ...]:
    x = torch.zeros(2, *shape)
    for layer in layers:
        x = layer.eval()(x)
    return tuple(x.shape[1:])


@st.composite
def _maximum(draw: st.DrawFn, shape: tuple[int, ...]) -> list[nn.Module]:
    """A layer of maxima for ``[C, H, W]``, or none."""
    if min(shape[1:]) < 2 or not draw(st.booleans()):
        return []
    return [nn.MaxPool2d(2, draw(st.integers(1, 2)), draw(st.integers(0, 1)), ceil_mode=draw(st.booleans()))]


@st.composite
def _spatial_block(
    draw: st.DrawFn, numbers: Drawn, shape: tuple[int, ...], exact: bool, maxima: bool
) -> list[nn.Module]:
    """A convolution or a pooling (or both), with or without batch norm, on ``[C, H, W]``."""
    layers = draw(_maximum(shape)) if maxima else []
    start, shape = shape, _shape_after(layers, shape)
    channels, height, width = shape
    before = draw(st.sampled_from(["nothing", "pool", "nothing", "pool", "adaptive", "zeros"]))
    if before == "pool" and min(height, width) >= 2:
        layers.append(nn.AvgPool2d(2, stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1))))
    elif before == "adaptive" and not exact:
        layers.append(nn.AdaptiveAvgPool2d((draw(st.integers(1, height)), draw(st.sampled_from([1, None])))))
    elif before == "zeros":
        layers.append(nn.ZeroPad2d((0, draw(st.integers(0, 1)), draw(st.integers(0, 1)), 0)))
    if layers:
        shape = _shape_after(layers, start)
        channels, height, width = shape
    if draw(st.sampled_from([True, True, False])) or not layers:
        groups = draw(st.sampled_from([1, channels]))
        kernel = (draw(st.integers(1, min(2, height))), draw(st.integers(1, min(3, width))))
        padding = draw(st.integers(0, 2))
        room = min(
            (size + 2 * padding - 1) // max(k - 1, 1) for size, k in zip((height, width), kernel, strict=True)
        )
        convolution = nn.Conv2d(
            channels,
            groups * draw(st.integers(1, 2)),
            kernel,
            stride=draw(st.integers(1, 2)),
            padding=padding,
            dilation=draw(st.integers(1, max(1, min(2, room)))),
            groups=groups,
            bias=draw(st.booleans()),
        )
        layers.append(_weighted(convolution, numbers))
        if not exact and draw(st.booleans()):
            layers.append(_batch_norm(nn.BatchNorm2d(convolution.out_channels), numbers))
        if maxima:
            layers += draw(_maximum(_shape_after(layers, start)))
    if draw(st.booleans()):
        layers.append(draw(st.sampled_from([nn.Dropout(0.5), nn.Dropout2d(0.5), nn.Identity()])))
    return [nn.Sequential(*layers)] if draw(st.sampled_from([False, False, True])) else layers


@st.composite
def _dense_block(draw: st.DrawFn, numbers: Drawn, inputs: int, exact: bool) -> list[nn.Module]:
    linear = nn.Linear(inputs, draw(st.integers(1, 4)), bias=draw(st.booleans()))
    layers = [_weighted(linear, numbers)]
    if not exact and draw(st.booleans()):
        layers.append(_batch_norm(nn.BatchNorm1d(linear.out_features), numbers))
    return layers


@st.composite
def _wired(
    draw: st.DrawFn,
    numbers: Drawn,
    block: list[nn.Module],
    neuron: nn.Module,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """A block and its neurons with a shortcut around them, and the shape of one output."""

    def projected(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> list[nn.Module]:
        if inputs == outputs:
            return []
        flat = [nn.Flatten()] if len(inputs) > 1 else []
        return [*flat, _weighted(nn.Linear(math.prod(inputs), math.prod(outputs)), numbers)]

    fits = before == after or len(after) == 1
    way = draw(st.sampled_from(["spikes", "currents", "membrane", "branches", "plain"]))
    if way == "spikes" and fits:
        return [Residual([*block, neuron], projected(before, after))], after
    if way == "currents" and fits:
        return [Residual(block, projected(before, after)), neuron], after
    if way == "membrane":
        size = math.prod(after)
        inner = [draw(neurons(numbers, (size,))), *([nn.Flatten()] if len(after) > 1 else [])]
        neuron = neuron if len(after) == 1 else draw(neurons(numbers, (size,)))
        linear = _weighted(nn.Linear(size, size), numbers)
        return [*block, nn.Flatten(), Residual([*inner, linear]), neuron], (size,)
    if way == "branches" and len(after) == 1:
        rest: list[nn.Module] = [nn.Flatten()] if len(before) > 1 else []
        other = rest if draw(st.booleans()) else [*rest, _weighted(nn.Linear(math.prod(before), 2), numbers)]
        size = math.prod(before) if other is rest else 2
        return [Branches([*block, neuron], other)], (after[0] + size,)
    return [*block, neuron], after


@st.composite
def _shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """The shape of one input."""
    flat = draw(st.integers(1, 5))
    if draw(st.booleans()):
        return draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return (flat,)


@st.composite
def _classes(draw: st.DrawFn, numbers: Drawn, inputs: int, exact: bool) -> list[nn.Module]:
    """The layer of the classes, and what may follow it."""
    classes = nn.Linear(inputs, draw(st.integers(2, 3)), bias=draw(st.booleans()))
    final = [_weighted(classes, numbers)]
    if not exact and draw(st.booleans()):
        final.append(_batch_norm(nn.BatchNorm1d(classes.out_features), numbers))
    if draw(st.booleans()):
        final.append(nn.Dropout(0.5))
    return final


@st.composite
def examples(draw: st.DrawFn, ways: Sequence[Way] = WAYS, most: int = 3, graphs: bool = False) -> Example:
    """Everything the bounds take, under the given kinds of threats, in batches of up to ``most`` samples.

    ``graphs`` adds shortcuts, max pooling, filters, feedback and readouts; without, networks are chains.
    """
    way: Way = draw(st.sampled_from(ways))
    kind: Numbers = draw(st.sampled_from(["smooth", "dyadic", "grid"]))
    exact = kind == "dyadic"
    threshold = draw(_thresholds(kind))
    seed = draw(st.integers(0, 2**32 - 1))
    numbers = Drawn(kind, threshold, seed)
    steps = draw(st.integers(1, 5 if exact else 8))
    batch = draw(st.integers(1, most))
    input_kind: Domain = "image" if way == "linf" else "frames" if way in FRAMES else "spikes"
    x_shape = shape = draw(_shapes())
    readout, filters = draw(readouts(graphs)), decays(exact, steps)
    same_neuron = draw(st.booleans())
    neuron = draw(neurons(numbers))

    normal = len(shape) == 3 and not exact and draw(st.booleans())
    layers: list[nn.Module] = [Normalize([0.3] * shape[0], [0.7] * shape[0])] if normal else []
    depth = draw(st.integers(1, 4))
    for number in range(depth):
        if len(shape) == 3 and draw(st.booleans()):
            block = draw(_spatial_block(numbers, shape, exact, graphs))
        else:
            flat = [] if len(shape) == 1 else [nn.Flatten()]
            block = [*flat, *draw(_dense_block(numbers, math.prod(shape), exact))]
        before, shape = shape, _shape_after(block, shape)
        if number == depth - 1:
            if len(shape) == 3:
                block.append(nn.Flatten())
                shape = (math.prod(shape),)
            final = draw(_classes(numbers, shape[0], exact))
            if readout == "rate":
                shape = _shape_after(final, shape)
            ends = neuron if same_neuron else draw(neurons(numbers, shape))
            layers += [*block, *final, ends] if readout == "rate" else [*block, ends, *final]
            if graphs and readout != "rate" and draw(st.booleans()):
                layers.append(draw(synapses(filters, (1,))))
        else:
            one = neuron if same_neuron else draw(neurons(numbers, shape))
            group = [*block, one]
            if graphs:
                timely = draw(timed(one, filters, shape, lambda layer: _weighted(layer, numbers)))
                group, shape = draw(_wired(numbers, block, timely, before, shape))
            layers += group
    network = SpikingNetwork(layers, steps, readout, input_kind).eval()
    threat, x = draw(_threats(numbers, way, x_shape, steps, batch))
    return Example(network, threat, x, kind, seed)


@st.composite
def _threats(
    draw: st.DrawFn,
    numbers: Drawn,
    way: Way,
    shape: tuple[int, ...],
    steps: int,
    batch: int,
) -> tuple[Threat, Tensor]:
    if way == "linf":
        eps: list[float] = [PIXEL, 0.0, 4 * PIXEL] if numbers.kind == "dyadic" else [0.03, 0.0, 0.2]
        limits: list[dict[str, Any]] = [{}, {"low": None, "high": None}]
        ball = LinfBall(draw(st.sampled_from(eps)), **draw(st.sampled_from(limits)))
        return ball, numbers.images((batch, *shape))
    if way == "frames":
        ends = draw(st.sampled_from([(None, None), (-1.0, 1.0), (-1.0, None)]))
        radius: list[float] = [PIXEL, 0.0, 4 * PIXEL] if numbers.kind == "dyadic" else [0.03, 0.0, 0.2]
        return LinfFrames(draw(st.sampled_from(radius)), *ends), 2 * numbers.images(
            (steps, batch, *shape)
        ) - 1
    if way == "events":
        sparse = numbers.spikes((steps, batch, *shape), draw(st.sampled_from([0.5, 0.2, 1.0])))
        budget = draw(st.sampled_from([1, 0, 2, 3, 9]))
        kind: Kind = draw(st.sampled_from(["any", "add", "drop"]))
        counts = sparse * (3 * numbers.uniform(steps, batch, *shape)).ceil()
        return EventChanges(budget, kind, draw(st.sampled_from([None, 3, 4]))), counts
    x = numbers.spikes((steps, batch, *shape), draw(st.sampled_from([0.5, 0.2, 0.0, 1.0])))
    if way == "flips":
        budget = min(draw(st.sampled_from([1, 0, 2, 3, 100])), steps * math.prod(shape))
        return SpikeFlips(budget, draw(st.sampled_from(["any", "add", "drop"]))), x
    if way == "shifts":
        return SpikeShift(draw(st.sampled_from([1, 2, 0, 9])), draw(st.sampled_from([1, 2, 0, 3, 100]))), x
    if way == "free":
        return FreeSpikes(draw(st.sampled_from([0.1, 0.0, 0.5, 1.0])), seed=7), x
    if way == "box":
        free = numbers.spikes(x.shape, 0.2)
        return SpikeBox(x * (1 - free), torch.maximum(x, free)), x
    images = numbers.uniform(batch, *shape)
    return CoupledBernoulli(draw(st.sampled_from([0.1, 0.0, 0.4])), steps, seed=3), images
