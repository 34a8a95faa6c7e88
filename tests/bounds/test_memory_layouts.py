"""Tensors as torch may hand them over: in other memory layouts, and from inference mode."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import FGSM, G2S, PGD, Attack, GreedyFlips, GreedyShifts
from certsnn.bounds import certify, layer_bounds, margin_bounds
from certsnn.inputsets import FreeSpikes, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron

STEPS = 2


def network(neuron: Callable[[], Neuron], threat: Threat) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, padding=1), neuron(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), neuron()]
    return SpikingNetwork(
        [*layers, nn.Flatten(), nn.Linear(4, 3)], STEPS, "membrane", threat.network_input
    ).eval()


def dense(threat: Threat) -> SpikingNetwork:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(8, 3), LIF(), nn.Linear(3, 3), LIF(), nn.Linear(3, 3)]
    return SpikingNetwork(layers, STEPS, "membrane", threat.network_input).eval()


def batch(threat: Threat, side: int = 4) -> Tensor:
    images = torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(1))
    spikes = (torch.stack([images] * STEPS) > 0.5).float()
    return images if threat.domain == "image" else spikes


def transposed(x: Tensor) -> Tensor:
    """The same numbers in another order in memory: channels_last where there are four axes."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


@pytest.mark.parametrize("where", ["input", "network"])
@pytest.mark.parametrize("threat", [LinfBall(0.02), SpikeFlips(1), FreeSpikes(0.1)], ids=str)
@pytest.mark.parametrize("neuron", [IF, LIF])
def test_bounds_do_not_depend_on_the_layout(where: str, threat: Threat, neuron: Callable[[], Neuron]) -> None:
    plain, x, y = network(neuron, threat), batch(threat), torch.tensor([0, 1, 2])
    wanted = margin_bounds(plain, x, y, threat, "s-crown", rounding=True)
    if where == "input":
        x = transposed(x)
    else:
        plain.to(memory_format=torch.channels_last)
    torch.testing.assert_close(margin_bounds(plain, x, y, threat, "s-crown", rounding=True), wanted)


@pytest.mark.parametrize("rounding", [True, False])
@pytest.mark.parametrize("threat", [LinfBall(0.02), SpikeFlips(1)], ids=str)
def test_optimised_slopes_in_inference_mode(threat: Threat, rounding: bool) -> None:
    x = batch(threat, 2).narrow(0 if threat.domain == "image" else 1, 0, 1)
    net, y = dense(threat), torch.tensor([0])
    wanted = certify(net, x, y, threat, "alpha-s-crown", rounding=rounding)
    with torch.inference_mode():
        made = dense(threat)
        found = certify(made, x.clone(), y.clone(), threat, "alpha-s-crown", rounding=rounding)
    assert torch.equal(found.margins, wanted.margins) and found.status == wanted.status
    # What was made there stays as it is, and may be used anywhere.
    again = margin_bounds(made, x, y, threat, "alpha-s-crown", rounding=rounding)
    assert torch.equal(again, wanted.margins)
    assert all(parameter.is_inference() for parameter in made.parameters())


def test_layer_bounds_of_tensors_from_inference_mode() -> None:
    threat = LinfBall(0.02)
    with torch.inference_mode():
        net, x = dense(threat), batch(threat, 2)
    wanted = layer_bounds(dense(threat), batch(threat, 2), threat)
    for one, other in zip(layer_bounds(net, x, threat), wanted, strict=True):
        assert torch.equal(one.spikes.lower, other.spikes.lower)


@pytest.mark.parametrize(
    "attack",
    [PGD(1), FGSM(), G2S(1), GreedyFlips(), GreedyShifts()],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_in_inference_mode(attack: Attack) -> None:
    threat = LinfBall(0.5) if attack.fits(LinfBall(0.5)) else SpikeFlips(2)
    net, x = dense(threat), batch(threat, 2)
    y = net(x).argmax(1)
    wanted = attack(net, x, y, threat)
    with torch.inference_mode():
        found = attack(dense(threat), x.clone(), y.clone(), threat)
        targeted = attack(net, x, y, threat, (y.clone() + 1) % 3)
    assert torch.equal(found.adversarial, wanted.adversarial)
    assert torch.equal(found.queries, wanted.queries)
    assert targeted.success.shape == y.shape


ONE_CHANNEL = """
import torch
from torch import nn
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF
layers = [nn.Conv2d(2, 1, 1, stride=2, padding=1, dilation=2), IF(), nn.Flatten(), nn.Linear(6, 2)]
network = SpikingNetwork(layers, 2, "membrane").eval().to(memory_format=torch.channels_last)
x = torch.rand(44, 2, 3, 1).to(memory_format=torch.channels_last)
for _ in range(20):
    network(x)
"""


def test_one_channel_in_channels_last_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_CHANNEL], capture_output=True, text=True)
    assert done.returncode == 0, done.returncode
