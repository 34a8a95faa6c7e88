"""Ties that rounding decides: no method certifies them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any, Literal

import pytest
import torch
from orders import (
    NEURONS,
    ORDERS,
    network_on_the_grid,
    run_one_by_one,
    spikes_for,
)
from torch import Tensor, nn

from certsnn.bounds import METHODS, certify
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS
from certsnn.bounds.linear.backward import membrane_error
from certsnn.bounds.options import BoundOptions
from certsnn.inputsets import LinfBall, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF, Neuron

BACKWARD = [name for name in METHODS if name != "s-ibp" and not name.startswith("auto-lirpa")]
"""Methods that go beyond S-IBP; all but the search on counts by a backward pass."""


# Three or four weights, in tenths of the threshold, that sum up to it in exact arithmetic.
TIES = [
    (0.1, (-4, 6, 8)),
    (0.1, (-3, 4, 9)),
    (0.3, (-3, 5, 8)),
    (0.3, (-1, 3, 8)),
    (0.7, (-2, 6, 6)),
    (0.7, (-4, -1, 6, 9)),
]


@pytest.mark.parametrize(("threshold", "tenths"), TIES, ids=str)
@pytest.mark.parametrize("name", NEURONS)
@torch.no_grad()
def test_a_tie_that_rounding_decides_is_certified_without_the_rounding_terms_only(
    name: str, threshold: float, tenths: tuple[int, ...]
) -> None:
    """Neuron 0 meets its threshold exactly, neuron 1 rests: class 0 wins if the order is kind.

    The same network, its inputs in another order: a wrong certificate with rounding=False.
    """
    x = torch.ones(1, 1, len(tenths))
    y = torch.tensor([0])
    claims, outcomes = [], []
    for order in permutations(tenths):
        linear = nn.Linear(len(tenths), 2, bias=False)
        row = [tenth * (threshold / 10) for tenth in order]
        linear.weight.data = torch.tensor([row, [0.0] * len(row)])
        network = SpikingNetwork([linear, NEURONS[name](threshold)], 1, "rate", "spikes").eval()
        claims.append(bool(certify(network, x, y, SpikeFlips(0), rounding=False).certified))
        assert not certify(network, x, y, SpikeFlips(0), rounding=True).certified
        for way in ORDERS:
            outcomes.append(run_one_by_one(network, x, way)[1].tolist() == [[1.0, 0.0]])
        outcomes.append(network(x).tolist() == [[1.0, 0.0]])
    assert set(outcomes) == {True, False}, "the order decides"
    assert any(claims), "the plain bound claims a win that another order takes away"


SOME_TIES = TIES[1:4]


def tie(
    make: Callable[[float], Neuron], threshold: float, tenths: tuple[int, ...], hidden: int
) -> SpikingNetwork:
    """Neuron 0 meets its threshold exactly, neuron 1 rests; ``hidden`` layers hand their spikes on."""
    linear = nn.Linear(len(tenths), 2, bias=False)
    row = [tenth * (threshold / 10) for tenth in tenths]
    linear.weight.data = torch.tensor([row, [0.0] * len(row)])
    layers: list[nn.Module] = [linear, make(threshold)]
    for _ in range(hidden):
        relay = nn.Linear(2, 2, bias=False)
        relay.weight.data = 2 * threshold * torch.eye(2)
        layers += [relay, make(threshold)]
    return SpikingNetwork(layers, 1, "rate", "spikes").eval()


def fires_in_every_order(network: SpikingNetwork, x: Tensor) -> bool:
    wins = [run_one_by_one(network, x, way)[1].tolist() == [[1.0, 0.0]] for way in ORDERS]
    return all([*wins, network(x).tolist() == [[1.0, 0.0]]])


def quick_bound(network: SpikingNetwork, x: Tensor, y: Tensor, method: str, rounding: bool) -> Tensor:
    """Margins under no threat; slopes are hardly optimised: none may be unsound."""
    problem = pose(network.freeze(), x, y, SpikeFlips(0), RIGOROUS if rounding else PLAIN)
    return METHODS[method](problem, BoundOptions(iterations=1))


@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize("name", ["IF subtract", "LIF zero", "LIF value"])
@pytest.mark.parametrize("method", BACKWARD)
@torch.no_grad()
def test_no_method_certifies_a_tie_that_rounding_decides(method: str, name: str, hidden: int) -> None:
    """Wrong with rounding=False: the same sum in another order takes the certified win away."""
    y = torch.tensor([0])
    wrong = 0
    for threshold, tenths in SOME_TIES:
        x = torch.ones(1, 1, len(tenths))
        networks = [tie(NEURONS[name], threshold, order, hidden) for order in permutations(tenths)]
        kind = all(fires_in_every_order(network, x) for network in networks)
        assert not kind, "the order decides"
        for network in networks:
            assert not (quick_bound(network, x, y, method, rounding=True) > 0).any()
            wrong += int(quick_bound(network, x, y, method, rounding=False) > 0)
    assert wrong > 0, "the plain bound claims a win that another order takes away"


@pytest.mark.parametrize("name", ["IF subtract", "LIF zero"])
@pytest.mark.parametrize("method", [name for name in BACKWARD if name != "branch-and-bound"])
@torch.no_grad()
def test_the_errors_of_the_membranes_are_what_keeps_ties_open(
    method: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds of the layer cover rounding, but a line that is as steep as they are close does not."""

    def nothing(*args: Any) -> Tensor | None:
        found = membrane_error(*args)
        return None if found is None else torch.zeros_like(found)

    for module in ("linear.levels", "linear.intermediate"):
        monkeypatch.setattr(f"certsnn.bounds.{module}.membrane_error", nothing)
    y = torch.tensor([0])
    wrong = 0
    for threshold, tenths in SOME_TIES:
        x = torch.ones(1, 1, len(tenths))
        for order in permutations(tenths):
            network = tie(NEURONS[name], threshold, order, 0)
            wrong += int(quick_bound(network, x, y, method, rounding=True) > 0)
    assert wrong > 0


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("method", BACKWARD)
@torch.no_grad()
def test_every_order_of_the_sums_honours_the_margins_of_every_method(method: str, name: str) -> None:
    readouts: tuple[Literal["rate", "membrane"], ...] = ("rate", "membrane")
    for seed, readout in enumerate(readouts):
        network = network_on_the_grid(NEURONS[name], 0.3, seed, readout, (8, 6, 4, 3))
        x = spikes_for(network, seed, 3)[:6]
        y = network(x).argmax(1)
        rivals = torch.tensor([[j for j in range(3) if j != label] for label in y.tolist()])
        claimed = quick_bound(network, x, y, method, rounding=True)
        assert claimed.isfinite().all()
        for order in ORDERS:
            logits = run_one_by_one(network, x, order)[1].double()
            assert (logits.gather(1, y[:, None]) - logits.gather(1, rivals) >= claimed).all(), order


@torch.no_grad()
def test_an_exact_tie_of_two_logits_is_never_certified() -> None:
    """Rows with the same weights in another order: the logits tie, but float32 sums differ."""
    noise = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        row = torch.randn(60, generator=generator)
        linear, last = nn.Linear(60, 60, bias=False), nn.Linear(60, 2, bias=False)
        linear.weight.data = torch.eye(60)
        last.weight.data = torch.stack([row, row[torch.randperm(60, generator=generator)]])
        network = SpikingNetwork([linear, LIF(0.5), last], 3, "membrane", "spikes").eval()
        x = torch.ones(3, 1, 60)
        for label in (0, 1):
            y = torch.tensor([label])
            assert not certify(network, x, y, SpikeFlips(0)).certified
            noise.append(bool(certify(network, x, y, SpikeFlips(0), rounding=False).certified))
    assert any(noise), "without the rounding terms noise is taken for a margin"


@pytest.mark.parametrize("name", NEURONS)
def test_an_exact_tie_of_two_rates_is_never_certified(name: str) -> None:
    linear = nn.Linear(4, 2)
    linear.weight.data[1] = linear.weight.data[0]
    linear.bias.data[1] = linear.bias.data[0]
    network = SpikingNetwork([linear, NEURONS[name](0.3)], 4).eval()
    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    for label in (0, 1):
        y = torch.full((8,), label)
        for rounding in (False, True):
            assert not certify(network, x, y, LinfBall(0.0), rounding=rounding).certified.any()
