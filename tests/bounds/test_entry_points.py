"""Margins and verdicts by hand, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import nn

from certsnn.affine import Dense
from certsnn.bounds import METHODS, Interval, certify, layer_bounds, margin_bounds
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS
from certsnn.bounds.interval.propagate import margins, others
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron


def test_other_classes_in_ascending_order() -> None:
    found = others(torch.tensor([0, 1, 3]), 4)
    assert found.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 2]]


def test_margins_of_rates_by_hand() -> None:
    rate = Interval(torch.tensor([[0.5, 0.0, 0.25]]), torch.tensor([[0.75, 0.5, 0.25]]))
    for y, expected in ((0, [0.0, 0.25]), (1, [-0.75, -0.25]), (2, [-0.5, -0.25])):
        for arithmetic in (PLAIN, RIGOROUS):
            found = margins((), rate, torch.tensor([y]), arithmetic)
            assert found.tolist() == [expected]


def test_the_last_layer_is_merged_with_the_margins() -> None:
    # Logits 2r + 0.25 and r for r in [0, 1]: apart, 0.25 - 1 is the least margin; together, 0.25.
    dense = Dense(torch.tensor([[2.0], [1.0]]), torch.tensor([0.25, 0.0]))
    rate = Interval(torch.zeros(1, 1), torch.ones(1, 1))
    assert margins((dense,), rate, torch.tensor([0]), PLAIN).tolist() == [[0.25]]
    assert margins((dense,), rate, torch.tensor([1]), PLAIN).tolist() == [[-1.25]]
    rigorous = float(margins((dense,), rate, torch.tensor([0]), RIGOROUS))
    assert 0 < 0.25 - rigorous < 1e-5
    # the rounding of both logits: 2 * 1 + 0.25 and 1 * 1
    assert 0.25 - rigorous == pytest.approx(RIGOROUS.gamma(1) * 3.25, rel=1e-6)


def network_of(weights: list[list[float]], bias: list[float] | None = None) -> SpikingNetwork:
    """Input spikes of two bits pass an identity layer, then the given readout."""
    identity = nn.Linear(2, 2, bias=False)
    identity.weight.data = torch.eye(2)
    last = nn.Linear(2, len(weights), bias=bias is not None)
    last.weight.data = torch.tensor(weights)
    if bias is not None:
        last.bias.data = torch.tensor(bias)
    return SpikingNetwork([identity, LIF(0.5, 0.0), last], 2, "membrane", "spikes").eval()


def test_margin_bounds_by_hand() -> None:
    network = network_of([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    x = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])  # rates 1, 0.5: logits 1, 0.5, 0.5
    y = torch.tensor([0])
    assert margin_bounds(network, x, y, SpikeFlips(0)).tolist() == [[0.5, 0.5]]
    # One flip frees each bit of the next layer on its own: rates in [0, 1].
    assert margin_bounds(network, x, y, SpikeFlips(1)).tolist() == [[-1.0, 0.0]]
    assert margin_bounds(network, x, y, SpikeFlips(1, "add")).tolist() == [[0.0, 0.5]]
    assert margin_bounds(network, x, y, SpikeFlips(1, "drop")).tolist() == [[-0.5, 0.0]]


def test_verdicts() -> None:
    network = network_of([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    verdict = certify(network, x, torch.tensor([0, 0, 0]), SpikeFlips(0))
    # the second is an exact tie, the third is wrong
    assert verdict.status == ["certified", "unknown", "unknown"]
    assert verdict.certified.tolist() == [True, False, False]
    assert verdict.margins.shape == (3, 1)
    assert certify(network, x, torch.tensor([1, 1, 1]), SpikeFlips(0)).status[2] == "certified"
    tie = certify(network, x, torch.tensor([0, 0, 0]), SpikeFlips(0), rounding=False)
    assert tie.margins[1].item() == 0
    assert tie.status[1] == "unknown"


def test_a_single_class_has_no_rivals() -> None:
    verdict = certify(network_of([[1.0, 0.0]]), torch.zeros(2, 1, 2), torch.tensor([0]), SpikeFlips(1))
    assert verdict.margins.shape == (1, 0)
    assert verdict.status == ["certified"]


@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_certify_never_touches_the_network(readout: Literal["rate", "membrane"]) -> None:
    torch.manual_seed(0)
    last = [LIF(0.2)] if readout == "rate" else []
    layers = [nn.Linear(4, 3), nn.BatchNorm1d(3), LIF(0.2), nn.Dropout(0.5), nn.Linear(3, 2), *last]
    network = SpikingNetwork(layers, 3, readout).train()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    x, y = torch.rand(4, 4), torch.tensor([0, 1, 0, 1])
    first = certify(network, x, y, LinfBall(0.1))
    assert network.training
    assert torch.equal(first.margins, certify(network.eval(), x, y, LinfBall(0.1)).margins)
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert not first.margins.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_samples_are_bounded_independently() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(4, 6), IF(0.3), nn.Linear(6, 3), LIF(0.2)], 4).eval()
    x, y = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    together = margin_bounds(network, x, y, LinfBall(0.05))
    apart = [margin_bounds(network, x[i : i + 1], y[i : i + 1], LinfBall(0.05)) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_the_index_keys_random_encodings() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(8, 3), LIF(0.1)], 4, input="spikes").eval()
    x, y = torch.rand(2, 8), torch.tensor([0, 1])
    threat = CoupledBernoulli(0.02, 4)
    here = margin_bounds(network, x, y, threat)
    assert torch.equal(here, margin_bounds(network, x, y, threat, index=torch.tensor([0, 1])))
    swapped = margin_bounds(network, x.flip(0), y.flip(0), threat, index=torch.tensor([1, 0]))
    assert torch.equal(here, swapped.flip(0))
    x0, bound = threat.bind(x, torch.tensor([0, 1]))
    assert torch.equal(here, margin_bounds(network, x0, y, bound))


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("threat", [LinfBall(0.1), SpikeFlips(2), FreeSpikes(0.2)], ids=str)
@pytest.mark.parametrize("neuron", [LIF(0.3, 0.7), IF(0.3)], ids=str)
def test_margins_train_the_network(
    readout: Literal["rate", "membrane"], threat: Threat, neuron: Neuron
) -> None:
    torch.manual_seed(0)
    last = [neuron] if readout == "rate" else []
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), neuron, nn.Linear(8, 3), *last]
    network = SpikingNetwork(layers, 3, readout, threat.network_input).eval()
    x = torch.rand(6, 4) if threat.domain == "image" else (torch.rand(3, 6, 4) < 0.5).float()
    margin = margin_bounds(network, x, torch.tensor([0, 1, 2, 0, 1, 2]), threat)
    margin.sum().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert isinstance(network.layers[0], nn.Linear)
    assert network.layers[0].weight.grad is not None
    assert network.layers[0].weight.grad.abs().sum() > 0


# Errors come before any work, and name what is wrong.

IMAGES = SpikingNetwork([nn.Linear(3, 2), LIF()], 4)


SPIKES = SpikingNetwork([nn.Linear(3, 2), LIF()], 4, input="spikes")


X, S, Y = torch.rand(2, 3), torch.ones(4, 2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "crown"), ValueError, "s-ibp"),
        (lambda: margin_bounds(IMAGES, X, Y[:1], LinfBall(0.1)), ValueError, "int64"),
        (lambda: margin_bounds(IMAGES, X, Y.float(), LinfBall(0.1)), ValueError, "int64"),
        (lambda: margin_bounds(IMAGES, S, Y, SpikeFlips(1)), ValueError, "input='spikes'"),
        (lambda: margin_bounds(SPIKES, X, Y, LinfBall(0.1)), ValueError, "input='image'"),
        (lambda: margin_bounds(IMAGES, X, Y, CoupledBernoulli(0.1, 4)), ValueError, "Coupled"),
        (lambda: layer_bounds(SPIKES, X, LinfBall(0.1)), ValueError, "input='image'"),
        (lambda: margin_bounds(IMAGES, X * math.nan, Y, LinfBall(0.1)), ValueError, "NaN"),
        (lambda: margin_bounds(IMAGES, X + 2, Y, LinfBall(0.1)), ValueError, "within"),
        (lambda: margin_bounds(IMAGES, X.double(), Y, LinfBall(0.1)), TypeError, "float64"),
        (lambda: margin_bounds(SPIKES, S / 2, Y, SpikeFlips(1)), ValueError, "binary"),
        (lambda: margin_bounds(SPIKES, S, Y, SpikeFlips(13)), ValueError, "12 bits"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_rounding_is_for_finite_float32_networks() -> None:
    wide = SpikingNetwork([nn.Linear(3, 2), LIF()], 4).double()
    with pytest.raises(TypeError, match="float32"):
        certify(wide, X.double(), Y, LinfBall(0.1))
    assert certify(wide, X.double(), Y, LinfBall(0.1), rounding=False).margins.shape == (2, 1)
    broken = SpikingNetwork([nn.Linear(3, 2), LIF()], 4)
    assert isinstance(broken.layers[0], nn.Linear)
    broken.layers[0].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"weights before layers\.1 are NaN"):
        certify(broken, X, Y, LinfBall(0.1))


def test_methods_are_listed() -> None:
    assert "s-ibp" in METHODS
    stages = [stage.name for stage in METHODS["auto"].stages]
    assert stages == ["s-ibp", "s-crown-ibp", "s-crown", "branch-and-bound", "alpha-s-crown"]
