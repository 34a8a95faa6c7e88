"""Readouts: logits by hand, the executed order, and how networks may end."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from certsnn.filters import Synapse
from certsnn.graph import Residual
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.readouts import READOUTS, ReadoutName

STEPS = 6


def parts() -> tuple[nn.Linear, nn.Linear, Tensor, Tensor]:
    """A first and a last layer, spikes, and the hidden spikes of all steps."""
    torch.manual_seed(0)
    first, last = nn.Linear(4, 8), nn.Linear(8, 3)
    x = (torch.rand(STEPS, 9, 4) < 0.5).float()
    return first, last, x, LIF(0.3, 0.5)(first(x))


@pytest.mark.parametrize("readout", ["membrane", "sum", "last", "maximum"])
def test_logits_are_those_of_plain_torch(readout: ReadoutName) -> None:
    first, last, x, spikes = parts()
    network = SpikingNetwork([first, LIF(0.3, 0.5), last], STEPS, readout, "spikes").eval()
    outputs = last(spikes)
    wanted = {
        "membrane": outputs.mean(0),
        "sum": outputs.sum(0),
        "last": outputs[-1],
        "maximum": outputs.max(0).values,
    }
    torch.testing.assert_close(network(x), wanted[readout])
    network.train()
    torch.testing.assert_close(network(x), wanted[readout])


@pytest.mark.parametrize("readout", ["membrane", "sum", "last", "maximum"])
def test_a_leaky_integrator_is_read_like_anything_else(readout: ReadoutName) -> None:
    first, last, x, spikes = parts()
    layers = [first, LIF(0.3, 0.5), last, Synapse(0.8)]
    network = SpikingNetwork(layers, STEPS, readout, "spikes").eval()
    v, rows = torch.zeros(9, 3), []
    for frame in spikes:
        v = 0.8 * v + last(frame)
        rows.append(v)
    outputs = torch.stack(rows)
    wanted = {
        "membrane": outputs.mean(0),
        "sum": outputs.sum(0),
        "last": outputs[-1],
        "maximum": outputs.max(0).values,
    }
    torch.testing.assert_close(network(x), wanted[readout])


def test_sums_of_spikes_are_counts() -> None:
    first, _, x, spikes = parts()
    for readout, wanted in {"sum": spikes.sum(0), "rate": spikes.mean(0), "last": spikes[-1]}.items():
        network = SpikingNetwork([first, LIF(0.3, 0.5)], STEPS, readout, "spikes").eval()  # type: ignore[arg-type]
        assert torch.equal(network(x), wanted)


def test_values_that_are_held_count_at_every_step() -> None:
    """A sum of an image's currents is one frame; the neurons beside it are of no account here."""
    linear = nn.Linear(3, 2)
    nodes = {"a": (LIF(), ["input"]), "b": (linear, ["input"])}
    x = torch.rand(5, 3)
    wanted = {"membrane": linear(x), "sum": 4 * linear(x), "last": linear(x), "maximum": linear(x)}
    for readout, logits in wanted.items():
        network = SpikingNetwork.from_graph(nodes, 4, readout).eval()  # type: ignore[arg-type]
        torch.testing.assert_close(network(x), logits)


def test_gradients_go_where_the_logits_are_read() -> None:
    _, last, _, _ = parts()
    for readout, all_steps in {"last": False, "maximum": True, "sum": True}.items():
        network = SpikingNetwork([LIF(0.3, 0.0), last], STEPS, readout, "frames").eval()  # type: ignore[arg-type]
        values = torch.rand(STEPS, 9, 8, requires_grad=True)
        network.freeze().run(values).sum().backward()
        assert values.grad is not None
        before = float(values.grad[:-1].abs().sum())
        assert (before > 0) == all_steps


def test_how_networks_may_end() -> None:
    with pytest.raises(ValueError, match=r"readout must be one of 'rate', .*got 'median'"):
        SpikingNetwork([nn.Linear(2, 2), IF()], 2, "median")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="membrane readout ends with an affine layer, but the last layer is a"
    ):
        SpikingNetwork([nn.Linear(2, 2), IF()], 2, "membrane")
    for readout in READOUTS:
        end = IF() if readout == "rate" else Residual(nn.Linear(2, 2))
        SpikingNetwork([nn.Linear(2, 2), IF(), nn.Linear(2, 2), end], 2, readout)  # type: ignore[arg-type]
