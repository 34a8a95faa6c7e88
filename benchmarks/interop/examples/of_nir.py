"""NIR graphs of the forms that papers and exporters give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
from example import Example, images
from torch import Tensor

Made = tuple[Any, Tensor, dict[str, Any]]
GIVEN = {"dt": 1e-3, "reset": "v_reset", "steps": 25, "readout": "rate"}
DRAW = np.random.default_rng(0)


def row(shape: tuple[int, ...], *nodes: Any, **given: Any) -> Made:
    """Nodes in a row."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array([10]))}
    names = ["input", *map(str, range(len(nodes))), "output"]
    graph = nir.NIRGraph(
        {**ends, **dict(zip(names[1:-1], nodes, strict=True))},
        list(pairwise(names)),
        type_check=False,
    )
    return graph, images(*shape), {**GIVEN, **given}


def affine(inputs: int, outputs: int) -> Any:
    return nir.Affine(DRAW.normal(size=(outputs, inputs)) / inputs**0.5, DRAW.normal(size=outputs))


def lif(size: int, **given: Any) -> Any:
    numbers = {"tau": 0.01, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.3, **given}
    return nir.LIF(**{name: np.full(size, number) for name, number in numbers.items()})


def current(size: int) -> Any:
    numbers = {"tau_syn": 5e-3, "tau_mem": 1e-2, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.3, "w_in": 5.0}
    return nir.CubaLIF(**{name: np.full(size, number) for name, number in numbers.items()})


def convolution(inputs: int, outputs: int, size: int, kernel: int = 5) -> Any:
    weight = DRAW.normal(size=(outputs, inputs, kernel, kernel))
    return nir.Conv2d((size, size), weight, 1, 2, 1, 1, np.zeros(outputs))


def nmnist() -> Made:
    """Sinabs' network for N-MNIST: convolutions, IF, sums over windows."""

    def fire(*shape: int) -> Any:
        return nir.IF(np.full(shape, 1.0), np.full(shape, 1.0))

    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    return row(
        (2, 34, 34),
        convolution(2, 8, 34),
        fire(8, 34, 34),
        pool,
        convolution(8, 8, 17),
        fire(8, 17, 17),
        nir.Flatten({"input": np.array([8, 17, 17])}, 0, -1),
        affine(8 * 289, 10),
        fire(10),
        dt=1.0,
    )


def recurrent(neuron: Any) -> Made:
    """The braille network's form: neurons that feed themselves, then a readout layer."""
    nodes = {
        "in": nir.Input(np.array([12])),
        "fc": affine(12, 38),
        "rec": affine(38, 38),
        "fire": neuron,
        "out_fc": affine(38, 7),
        "out": lif(7),
        "end": nir.Output(np.array([7])),
    }
    edges = [
        ("in", "fc"),
        ("fc", "fire"),
        ("fire", "rec"),
        ("rec", "fire"),
        ("fire", "out_fc"),
        ("out_fc", "out"),
        ("out", "end"),
    ]
    return nir.NIRGraph(nodes, edges, type_check=False), images(12), GIVEN


def exported(export: str) -> Made:
    """A network that snnTorch exports; its reset is by subtraction, which the file does not say."""
    import snntorch
    import torch
    from snntorch.export_nir import export_to_nir
    from torch import nn

    layers = [nn.Linear(64, 32), None, nn.Linear(32, 10), None]
    decays = [torch.full((32,), 0.9), torch.full((10,), 0.9)]
    found = [
        layer
        or snntorch.Leaky(beta=(decay := decays.pop(0)), threshold=torch.ones_like(decay), init_hidden=True)
        for layer in layers
    ]
    graph = export_to_nir(nn.Sequential(*found), torch.zeros(64))
    return graph, images(64), {**GIVEN, "dt": 1e-4, "reset": "subtract-next"}


NIR = [
    Example("LIF, fully connected", lambda: row((64,), affine(64, 32), lif(32), affine(32, 10), lif(10))),
    Example(
        "CubaLIF, fully connected",
        lambda: row((64,), affine(64, 32), current(32), affine(32, 10), current(10)),
    ),
    Example("N-MNIST convolutional network (sinabs' form)", nmnist),
    Example("braille, recurrent LIF", lambda: recurrent(lif(38, tau=1e-3))),
    Example("braille, recurrent CubaLIF", lambda: recurrent(current(38))),
    Example(
        "LI readout",
        lambda: row(
            (64,),
            affine(64, 32),
            lif(32),
            affine(32, 10),
            nir.LI(*(np.full(10, v) for v in (0.01, 1.0, 0.0))),
            readout="maximum",
        ),
    ),
    Example("delays", lambda: row((64,), affine(64, 10), nir.Delay(np.full(10, 2.0)), lif(10))),
    Example("snnTorch's exporter", lambda: exported("snntorch")),
]
