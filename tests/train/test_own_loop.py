"""The certified loss as one function: its value, its gradients, and its refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.train import certified_loss
from certsnn.train.objectives.bounds import CrownMargins
from certsnn.train.objectives.certified import robust_cross_entropy
from certsnn.train.regularisers import L1


def network_of(norm: bool, kind: str = "image") -> SpikingNetwork:
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(8)] if norm else []
    layers = [nn.Linear(6, 8), *middle, LIF(0.5, 0.5), nn.Linear(8, 3)]
    return SpikingNetwork(layers, 4, "membrane", kind).train()  # type: ignore[arg-type]


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_the_loss_mixes_the_clean_and_the_worst_case(kappa: float) -> None:
    network, (x, y) = network_of(norm=False), batch()
    loss = certified_loss(network, x, y, LinfBall(0.05), kappa=kappa)
    worst = robust_cross_entropy(margin_bounds(network, x, y, LinfBall(0.05)))
    torch.testing.assert_close(loss, kappa * F.cross_entropy(network(x), y) + (1 - kappa) * worst)


def test_bounds_use_the_batch_statistics() -> None:
    network, (x, y) = network_of(norm=True), batch()
    loss = certified_loss(network, 5 * x, y, LinfBall(0.05, 0, 5), kappa=0)
    network.eval()  # the running statistics have moved a tenth of the way alone
    running = robust_cross_entropy(margin_bounds(network, 5 * x, y, LinfBall(0.05, 0, 5)))
    assert not torch.allclose(loss, running, rtol=1e-2)
    norm = network.layers[1]
    assert isinstance(norm, nn.BatchNorm1d)
    currents = network.layers[0](5 * x)
    norm.running_mean, norm.running_var = currents.mean(0), currents.var(0, unbiased=False)
    own = robust_cross_entropy(margin_bounds(network, 5 * x, y, LinfBall(0.05, 0, 5)))
    torch.testing.assert_close(loss, own)


def test_a_plain_loop_lowers_it() -> None:
    network, (x, y) = network_of(norm=True), batch()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = certified_loss(network, x, y, LinfBall(0.02))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_tighter_bounds_and_regularisers_are_taken() -> None:
    network, (x, y) = network_of(norm=False), batch()
    plain = certified_loss(network, x, y, LinfBall(0.05), kappa=0)
    tighter = certified_loss(network, x, y, LinfBall(0.05), kappa=0, bound=CrownMargins(beta_end=1.0))
    heavier = certified_loss(network, x, y, LinfBall(0.05), kappa=0, regularisers=[L1(0.1)])
    assert tighter < plain < heavier


def test_the_index_keys_the_noise() -> None:
    network, (x, y) = network_of(norm=False, kind="spikes"), batch()
    threat = CoupledBernoulli(0.05, 4)
    first = certified_loss(network, x, y, threat)
    torch.testing.assert_close(first, certified_loss(network, x, y, threat, index=torch.arange(5)))
    assert first != certified_loss(network, x, y, threat, index=torch.arange(5) + 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.eye(3)[[0, 1, 2, 0, 1]]}, r"y\.argmax\(1\)"),
        ({"y": torch.tensor([0, 1, 3, 0, 1])}, r"y must lie in 0\.\.2"),
        ({"threat": 0.1}, r"LinfBall\(0\.1\)"),
        ({"threat": SpikeFlips(1)}, "needs a network with input='spikes'"),
        ({"kappa": 1.5}, "kappa must lie in"),
        ({"x": torch.rand(5, 7)}, "7"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    network, (x, y) = network_of(norm=False), batch()
    threat: Threat = LinfBall(0.1)
    given = {"x": x, "y": y, "threat": threat, "kappa": 0.5} | change
    with pytest.raises((ValueError, TypeError), match=message):
        certified_loss(network, **given)  # type: ignore[arg-type]


def test_a_network_in_eval_mode_is_refused() -> None:
    network = SpikingNetwork([nn.Linear(6, 3), IF(), nn.Linear(3, 3)], 4, "membrane").eval()
    with pytest.raises(ValueError, match=r"call network\.train\(\)"):
        certified_loss(network, *batch(), LinfBall(0.1))
