"""Graphs of layers: the forward pass against plain torch, training, names, errors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from certsnn.graph import Add, Branches, Concatenate, Graph, Layers, Residual
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import Concatenation, Stage, Sum

STEPS = 4


def neurons(layer: nn.Module, currents: Sequence[Tensor]) -> list[Tensor]:
    """Spikes of leaky neurons that are reset to zero, step by step."""
    assert isinstance(layer, LIF)
    v, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        u = v + current
        spikes.append((u >= layer.threshold).float())
        v = layer.decay * u * (1 - spikes[-1])
    return spikes


def parts() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {
        "first": nn.Conv2d(2, 4, 3, padding=1),
        "a": LIF(0.2, 0.5),
        "inner": nn.Conv2d(4, 4, 3, padding=1),
        "b": LIF(0.3, 0.75),
        "wide": nn.Conv2d(4, 6, 1),
        "side": nn.Conv2d(4, 6, 1),
        "c": LIF(0.25, 0.5),
        "end": nn.Linear(10 * 16, 3),
    }


def by_hand(p: dict[str, nn.Module], x: Tensor) -> Tensor:
    """SEW residual, projected sum of currents, concatenation: on an image, step by step."""
    a = neurons(p["a"], [p["first"](x)] * STEPS)
    b = neurons(p["b"], [p["inner"](s) for s in a])
    sew = [s + t for s, t in zip(a, b, strict=True)]
    c = neurons(p["c"], [p["wide"](s) + p["side"](s) for s in sew])
    both = [torch.cat([s, t], 1).flatten(1) for s, t in zip(c, sew, strict=True)]
    return torch.stack([p["end"](s) for s in both]).mean(0)


def nested(p: dict[str, nn.Module]) -> SpikingNetwork:
    layers: Layers = [
        [p["first"], p["a"]],
        Residual([p["inner"], p["b"]]),
        Branches([Residual(p["wide"], p["side"]), p["c"]], []),
        [[nn.Flatten()], p["end"]],
    ]
    return SpikingNetwork(layers, STEPS, "membrane").eval()


def named(p: dict[str, nn.Module]) -> SpikingNetwork:
    nodes = {
        "first": (p["first"], ["input"]),
        "a": (p["a"], ["first"]),
        "inner": (p["inner"], ["a"]),
        "b": (p["b"], ["inner"]),
        "sew": (Add(), ["b", "a"]),
        "wide": (p["wide"], ["sew"]),
        "side": (p["side"], ["sew"]),
        "currents": (Add(), ["wide", "side"]),
        "c": (p["c"], ["currents"]),
        "both": (Concatenate(), ["c", "sew"]),
        "flat": (nn.Flatten(), ["both"]),
        "end": (p["end"], ["flat"]),
    }
    return SpikingNetwork.from_graph(nodes, STEPS, "membrane").eval()


def images(batch: int = 5) -> Tensor:
    return torch.rand(batch, 2, 4, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("build", [nested, named])
def test_graphs_compute_what_they_say(build: object) -> None:
    p, x = parts(), images()
    network = nested(p) if build is nested else named(p)
    found = network(x)
    assert found.std() > 0.01
    assert torch.allclose(found, by_hand(p, x), atol=1e-6)


def test_the_program_names_its_nodes() -> None:
    program = nested(parts()).freeze()
    kinds = [(type(node), node.name) for node in program.nodes]
    assert kinds == [
        (Stage, "layers.0.1"),
        (Stage, "layers.1.body.1"),
        (Sum, "layers.1"),
        (Sum, "layers.2.branches.0.0"),
        (Stage, "layers.2.branches.0.1"),
        (Concatenation, "layers.2"),
    ]
    assert [link.source for node in program.nodes for link in node.links] == [0, 1, 2, 1, 3, 3, 4, 5, 3]
    assert program.readout.source == 6
    assert not program.is_chain
    assert program.held(True) == [True, False, False, False, False, False, False]


def test_a_current_that_several_branches_take_is_computed_once() -> None:
    """Membrane shortcut: the sum of an image's currents stays the same at every step."""
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    network = SpikingNetwork([first, Residual([LIF(0.3), nn.Linear(4, 4)]), LIF(0.3)], 3).eval()
    program = network.freeze()
    assert [type(node) for node in program.nodes] == [Sum, Stage, Sum, Stage]
    assert program.held(True) == [True, True, False, False, False]
    x = torch.rand(6, 3)
    values = program.values(x)
    assert torch.equal(values[1][0], first(x)) and len(values[1]) == 1 and len(values[3]) == 3


def test_training_freezes_what_it_ran() -> None:
    """Batch norm inside of a body: the frozen network with the batch's statistics gives the same logits."""
    torch.manual_seed(0)
    linear, norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
    body = Residual([linear, norm, LIF(0.3)])
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8), LIF(0.3), body, nn.Linear(8, 3)]
    network = SpikingNetwork(layers, STEPS, "membrane").train()
    x = torch.rand(12, 5)
    logits, program = network.forward_and_freeze(x)
    assert torch.allclose(program.run(x), logits, atol=1e-5)
    logits.sum().backward()
    assert norm.num_batches_tracked == 1
    assert linear.weight.grad is not None and float(linear.weight.grad.abs().sum()) > 0


def test_state_dict_and_leaves() -> None:
    p = parts()
    network = nested(p)
    assert "layers.1.body.0.weight" in network.state_dict()
    leaves = network.leaves()
    assert leaves == [p[k] for k in ("first", "a", "inner", "b", "wide", "side", "c")] + leaves[-2:]


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    network = SpikingNetwork([nn.Linear(3, 4), LIF(), Residual([nn.Linear(4, 5), IF()])], 2).eval()
    with pytest.raises(ValueError, match=r"layers\.2 adds outputs of the shapes \[5\] and \[4\]; project"):
        network(torch.rand(2, 3))
    layers = [nn.Conv2d(1, 2, 1), LIF(), Branches([], [nn.Conv2d(2, 2, 2)]), nn.Flatten(), nn.Linear(9, 2)]
    with pytest.raises(ValueError, match=r"layers\.2 joins outputs that differ in more than channels"):
        SpikingNetwork(layers, 2, "membrane").eval()(torch.rand(1, 1, 3, 3))


def test_graphs_are_checked_when_they_are_made() -> None:
    with pytest.raises(ValueError, match=r"node 'b' of a Graph takes \['c'\].*among input, a"):
        Graph({"a": (nn.Linear(2, 2), ["input"]), "b": (LIF(), ["c"])})
    with pytest.raises(ValueError, match="takes one source, not 2; put an Add first"):
        Graph({"a": (nn.Linear(2, 2), ["input"]), "b": (LIF(), ["a", "input"])})
    with pytest.raises(ValueError, match="at least one node"):
        Graph({})
    with pytest.raises(ValueError, match="needs at least one layer of neurons"):
        SpikingNetwork([Residual(nn.Linear(2, 2)), nn.Linear(2, 2)], 2, "membrane")
    with pytest.raises(ValueError, match="rate readout ends with a neuron"):
        SpikingNetwork([nn.Linear(2, 2), LIF(), Residual(LIF()), nn.Linear(2, 2)], 2)
