"""What must not change the bounds: memory, other samples, a threat of nothing. Errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from small_networks import (
    OURS,
    THREATS,
    every_bound,
    labels,
    least_margins,
    problem_of,
    random_images,
    random_network,
    random_spikes,
)
from torch import Tensor, nn

from certsnn.bounds import METHODS, certify, margin_bounds
from certsnn.bounds.options import BoundOptions
from certsnn.inputsets import InputSet, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF


def under(threat: Threat, seed: int, batch: int) -> tuple[SpikingNetwork, Tensor]:
    """A float64 network for a threat, and a batch as the threat takes it."""
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 7), LIF(0.3, 0.7), nn.Linear(7, 6), LIF(0.3, 0.5, 0.1), nn.Linear(6, 3)]
    network = SpikingNetwork(layers, 3, "membrane", threat.network_input).eval().double()
    x = torch.rand(batch, 5) if threat.domain == "image" else (torch.rand(3, batch, 5) < 0.5).float()
    return network, x.double()


def quick(
    network: SpikingNetwork, x: Tensor, threat: Threat, method: str, options: BoundOptions, index: Tensor
) -> Tensor:
    x0, input_set = threat.bind(x, index)
    problem = problem_of(network, x0, labels(100)[index], input_set)
    return METHODS[method](problem, options).detach()


@pytest.mark.parametrize("name", THREATS)
@pytest.mark.parametrize("method", ["s-crown-ibp", "s-crown", "alpha-s-crown"])
def test_bounds_do_not_depend_on_the_memory(method: str, name: str) -> None:
    """In ever smaller pieces, until not even one row of one sample fits."""
    threat = THREATS[name]
    network, x = under(threat, 1, 4)
    index = torch.arange(4)
    whole = quick(network, x, threat, method, BoundOptions(iterations=1), index)
    memory, pieces = 2**20, 0
    while True:
        memory = memory * 2 // 3
        assert memory > 0, "a budget of nothing must be refused"
        try:
            found = quick(network, x, threat, method, BoundOptions(memory=memory, iterations=1), index)
        except ValueError as error:
            assert "--memory" in str(error)
            assert "MiB" in str(error)
            break
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
        pieces += 1
    assert memory < 2**16
    assert pieces > 3


@pytest.mark.parametrize("name", THREATS)
@pytest.mark.parametrize("method", OURS)
def test_samples_are_bounded_independently(method: str, name: str) -> None:
    threat = THREATS[name]
    network, x = under(threat, 2, 4)
    index = torch.arange(4)
    together = quick(network, x, threat, method, BoundOptions(iterations=1), index)
    for sample in range(4):
        own = x[[sample]] if threat.domain == "image" else x[:, [sample]]
        found = quick(network, own, threat, method, BoundOptions(iterations=1), index[[sample]])
        torch.testing.assert_close(found[0], together[sample], rtol=0, atol=1e-9)


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_an_empty_threat_gives_the_executed_margins(
    method: str, kind: Literal["image", "spikes"], readout: Literal["rate", "membrane"]
) -> None:
    for seed in range(3):
        network = random_network(seed + 50, kind, readout)
        x = random_images(seed) if kind == "image" else random_spikes(network, seed)
        empty: InputSet = LinfBall(0.0) if kind == "image" else SpikeFlips(0)
        y = network(x).argmax(1)
        executed = least_margins(network, y, [x])
        for found, tolerance in every_bound(network, x, y, empty, method):
            torch.testing.assert_close(found.double(), executed, rtol=0, atol=1e-4)
            assert (found <= executed + tolerance).all()


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("kind", ["image", "spikes"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_single_class_and_an_empty_batch(method: str, kind: str, depth: int) -> None:
    torch.manual_seed(0)
    hidden: list[nn.Module] = [nn.Linear(4, 4), LIF(0.2)]
    threat = LinfBall(0.1) if kind == "image" else SpikeFlips(1)
    for classes, batch in ((1, 2), (2, 0), (1, 0)):
        layers = [*hidden * depth, nn.Linear(4, classes), LIF(0.2)]
        network = SpikingNetwork(layers, 3, "rate", threat.network_input).eval()
        x = torch.rand(batch, 4) if kind == "image" else torch.ones(3, batch, 4)
        for rounding in (False, True):
            verdict = certify(network, x, labels(batch) * 0, threat, method, rounding=rounding)
            assert verdict.margins.shape == (batch, classes - 1)
            assert verdict.status == (["certified"] * batch if classes == 1 else [])


# Errors.

IMAGES = SpikingNetwork([nn.Linear(3, 2), LIF()], 4)


X, Y = torch.rand(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "crown"), "s-crown-ibp"),
        (lambda: certify(IMAGES, X, Y, LinfBall(0.1), "s-crown", relaxation="loose"), "joint, separate"),  # type: ignore[arg-type]
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=0), "memory"),
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=100), "--memory"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_small_budget_is_an_error_of_the_verdict() -> None:
    """Not of the whole call: a cheaper method may still decide."""
    verdict = certify(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=100)
    assert verdict.status == ["error", "error"]
    assert all("--memory" in reason for reason in verdict.reason)
    assert not verdict.margins.isfinite().any()
