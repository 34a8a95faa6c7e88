"""float32 networks whose sums are taken in a given order.

Weights lie on a grid of the threshold (multiples of a tenth of 0.1, 0.3, 0.7). Membranes then meet
the threshold in exact arithmetic, and the order of a float32 sum decides on which side it falls.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import LayerBounds
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Trace, scan

STEPS = 16


NEURONS: dict[str, Callable[[float], Neuron]] = {
    "IF subtract": lambda threshold: IF(threshold),
    "IF zero": lambda threshold: IF(threshold, "zero"),
    "IF excited": lambda threshold: IF(threshold, (1.0, threshold / 10)),
    "LIF zero": lambda threshold: LIF(threshold, 0.5),
    "LIF subtract": lambda threshold: LIF(threshold, 0.5, "subtract"),
    "LIF value": lambda threshold: LIF(threshold, 0.9, threshold * 0.3),
}


def grid(shape: tuple[int, ...], threshold: float, generator: torch.Generator) -> Tensor:
    """Multiples of threshold / 10, rounded to float32."""
    return torch.randint(-4, 6, shape, generator=generator) * (threshold / 10)


def network_on_the_grid(
    make: Callable[[float], Neuron],
    threshold: float,
    seed: int,
    readout: Literal["rate", "membrane"] = "rate",
    sizes: tuple[int, ...] = (40, 24, 12, 3),
) -> SpikingNetwork:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        linear.weight.data = grid((outputs, inputs), threshold, generator)
        linear.bias.data = grid((outputs,), threshold, generator)
        layers += [linear, make(threshold)]
    if readout == "membrane":
        layers = layers[:-1]
    return SpikingNetwork(layers, STEPS, readout, "spikes").eval()


def spikes_for(network: SpikingNetwork, seed: int, batch: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = network.layers[0].in_features
    assert isinstance(inputs, int)
    return (torch.rand(STEPS, batch, inputs, generator=generator) < 0.3).float()


Order = Literal["given", "reversed", "ascending", "descending", "by magnitude"]


ORDERS: tuple[Order, ...] = ("given", "reversed", "ascending", "descending", "by magnitude")


def sums_one_by_one(dense: Dense, x: Tensor, order: Order) -> Tensor:
    """``W x + b`` on ``[N, in]`` in float32, one product added after the other."""
    products = dense.weight * x[:, None]
    key = {
        "given": torch.arange(products.shape[-1]).expand_as(products),
        "reversed": -torch.arange(products.shape[-1]).expand_as(products),
        "ascending": products,
        "descending": -products,
        "by magnitude": products.abs(),
    }[order]
    ordered = products.gather(-1, key.argsort(dim=-1, stable=True))
    total = torch.zeros_like(ordered[..., 0])
    for product in ordered.unbind(-1):
        total = total + product
    return total if dense.shift is None else total + dense.shift


def run_one_by_one(network: SpikingNetwork, x: Tensor, order: Order) -> tuple[list[Trace], Tensor]:
    """The traces and logits of a network of Linear layers whose sums are taken in a given order."""
    program = network.freeze()
    traces: list[Trace] = []
    for stage in program.stages:
        (dense,) = stage.link.operators
        assert isinstance(dense, Dense)
        currents = sums_one_by_one(dense, x.flatten(0, 1), order).unflatten(0, x.shape[:2])
        traces.append(scan(currents, stage.neuron))
        x = traces[-1].spikes
    rate = x.sum(0) / len(x)
    for dense in program.readout.operators:
        assert isinstance(dense, Dense)
        rate = sums_one_by_one(dense, rate, order)
    return traces, rate


def inside(bounds: list[LayerBounds], traces: list[Trace]) -> bool:
    return all(
        bool((interval.lower.double() <= values.double()).all())
        and bool((values.double() <= interval.upper.double()).all())
        for layer, trace in zip(bounds, traces, strict=True)
        for interval, values in zip(layer, trace, strict=True)
    )
