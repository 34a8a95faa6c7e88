"""auto_LiRPA on graphs: shortcuts and branches, and the nodes that it does not take."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from lirpa_cases import executed_margins, needs_engine
from odd_node import Odd
from torch import Tensor, nn

from certsnn.bounds import bind
from certsnn.bounds import margin_bounds as own_bounds
from certsnn.filters import Synapse
from certsnn.graph import Branches, Residual
from certsnn.inputsets import FreeSpikes, InputSet, LinfBall
from certsnn.interop._lirpa_module import Unrolled
from certsnn.interop.auto_lirpa import ENGINE_METHODS, Engine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.program import Link
from certsnn.recurrence import Recurrent


def lif() -> LIF:
    return LIF(0.25, 0.5)


def dense(shortcut: str) -> SpikingNetwork:
    """A network of 6 inputs and 3 classes with one kind of shortcut."""
    torch.manual_seed(0)
    first, body = [nn.Linear(6, 8), lif()], nn.Linear(8, 8)
    middle: dict[str, list[nn.Module]] = {
        "spikes": [Residual([body, lif()])],
        "doubled spikes": [Residual([])],
        "currents": [Residual(body, nn.Linear(8, 8)), lif()],
        "membrane": [body, Residual([lif(), nn.Linear(8, 8)]), lif()],
        "branches": [Branches([body, lif()], [nn.Linear(8, 2)], []), nn.Linear(18, 8), lif()],
    }
    start: list[nn.Module] = [Residual(nn.Linear(6, 6))] if shortcut == "membrane" else []
    return SpikingNetwork([*start, *first, *middle[shortcut], nn.Linear(8, 3)], 3, "membrane").eval()


def spatial() -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 2, 3, padding=1),
        Residual([lif(), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)]),
        lif(),
        Branches([nn.Conv2d(2, 1, 1), lif()], []),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
        lif(),
    ]
    return SpikingNetwork(layers, 3, "rate", "spikes").eval()


READOUTS: tuple[Literal["sum", "last", "maximum"], ...] = ("sum", "last", "maximum")
KINDS = ("spikes", "doubled spikes", "currents", "membrane", "branches")


def check(network: SpikingNetwork, x: Tensor, ball: InputSet, members: list[Tensor]) -> None:
    """Bounds hold for members; intervals are ours, and lines are those of our separate relaxation."""
    y = network(x).argmax(1)
    engine = Engine(network.freeze(), x)
    margins = torch.stack([executed_margins(network, member, y) for member in members]).amin(0)
    found = {method: engine.margins(ball, y, method) for method in ENGINE_METHODS}
    for bound in found.values():
        assert (bound <= margins + 1e-5).all()
    torch.testing.assert_close(found["ibp"], own_bounds(network, x, y, ball), rtol=1e-4, atol=1e-5)
    best = torch.maximum(found["ibp"], found["crown-ibp"])
    own = own_bounds(network, x, y, ball, "s-crown-ibp", relaxation="separate")
    torch.testing.assert_close(best, own, rtol=1e-4, atol=1e-5)


@needs_engine
@pytest.mark.parametrize("shortcut", KINDS)
@torch.no_grad()
def test_bounds_of_images_hold_and_are_ours(shortcut: str) -> None:
    network, x = dense(shortcut), torch.rand(4, 6)
    generator = torch.Generator().manual_seed(1)
    signs = [torch.rand(x.shape, generator=generator).round() * 2 - 1 for _ in range(32)]
    for eps in (0.0, 0.02, 0.1):
        check(network, x, LinfBall(eps, low=None, high=None), [x + eps * sign for sign in signs])


@needs_engine
@torch.no_grad()
def test_bounds_of_spikes_hold_and_are_ours() -> None:
    network, x = spatial(), (torch.rand(3, 4, 1, 4, 4) < 0.5).float()
    generator = torch.Generator().manual_seed(1)
    for density in (0.0, 0.1):
        x0, free = bind(network, x, FreeSpikes(density, seed=3), None)
        check(network, x0, free, [x0, *(free.sample(x0, generator) for _ in range(16))])


@needs_engine
@torch.no_grad()
def test_maxima_over_tiles_hold_and_others_are_refused_by_name() -> None:
    torch.manual_seed(0)
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    networks = [
        SpikingNetwork(
            [nn.Conv2d(1, 2, 3, padding=1), pool, lif(), nn.Flatten(), nn.Linear(size, 3)], 3, "membrane"
        )
        for pool, size in ((nn.MaxPool2d(2), 8), (nn.MaxPool2d(2, 1), 18), (nn.MaxPool2d(3), 2))
    ]
    first, *others = (network.eval() for network in networks)
    engine, ball = Engine(first.freeze(), x), LinfBall(0.05)
    own = own_bounds(first, x, y, ball)
    torch.testing.assert_close(engine.margins(ball, y, "ibp"), own, rtol=1e-4, atol=1e-5)
    margins = executed_margins(first, x, y)
    assert all((engine.margins(ball, y, method) <= margins + 1e-5).all() for method in ENGINE_METHODS)
    for network in others:
        with pytest.raises(
            TypeError, match=r"windows that tile a map, not those of layers\.1 on \[2, 4, 4\]"
        ):
            Unrolled(network.freeze(), x)


def test_other_nodes_are_refused_by_name() -> None:
    program = dense("spikes").freeze()
    odd = Odd((Link(len(program.nodes), ()),), "layers.7")
    nodes = (*program.nodes, odd)
    changed = replace(program, nodes=nodes, readout=Link(len(nodes), program.readout.operators))
    with pytest.raises(TypeError, match=r"auto-lirpa has no layer for Odd \(layers\.7\)"):
        Unrolled(changed, torch.rand(2, 6))


def test_other_readouts_filters_and_recurrent_layers_are_refused_by_name() -> None:
    x = torch.rand(2, 3)
    for readout in READOUTS:
        network = SpikingNetwork([nn.Linear(3, 4), lif(), nn.Linear(4, 2)], 2, readout)
        with pytest.raises(TypeError, match=f"reads means over time, not '{readout}'"):
            Unrolled(network.freeze(), x)
    for layers, name in (
        ([Synapse(0.5), lif()], r"Filter \(layers\.1\)"),
        ([Recurrent(lif(), nn.Linear(4, 4))], r"\w+ \(layers\.1"),
    ):
        network = SpikingNetwork([nn.Linear(3, 4), *layers, nn.Linear(4, 2)], 2, "membrane")
        with pytest.raises(TypeError, match=f"auto-lirpa has no layer for {name}"):
            Unrolled(network.freeze(), x)
