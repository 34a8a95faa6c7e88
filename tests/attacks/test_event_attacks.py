"""Attacks on counts of events, against the exhaustive search."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks import FGSM, PGD, ExhaustiveFlips, GreedyEvents, RandomSearch
from certsnn.inputsets import EventChanges
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.surrogates import Adaptive


def network(seed: int) -> SpikingNetwork:
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 6), LIF(0.5), nn.Linear(6, 3)]
    return SpikingNetwork(layers, 2, "membrane", "frames").eval()


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
def test_no_attack_beats_the_exhaustive_search_and_the_good_ones_come_close(
    kind: Literal["any", "add", "drop"],
) -> None:
    found = {attack: 0 for attack in ("GreedyEvents", "PGD", "FGSM", "RandomSearch", "ExhaustiveFlips")}
    for seed in range(4):
        net = network(seed)
        x = torch.randint(0, 3, (2, 12, 3)).float()
        y, changes = net(x).argmax(1), EventChanges(2, kind)
        every = ExhaustiveFlips()(net, x, y, changes).success
        for attack in (GreedyEvents(), PGD(), FGSM(), RandomSearch(tries=20), ExhaustiveFlips()):
            success = attack(net, x, y, changes).success
            assert not (success & ~every).any()
            found[type(attack).__name__] += int(success.sum())
    assert found["ExhaustiveFlips"] >= 4
    assert found["GreedyEvents"] >= 0.9 * found["ExhaustiveFlips"]
    assert found["PGD"] >= 0.6 * found["ExhaustiveFlips"]


def one_neuron(weights: list[float], threshold: float) -> tuple[SpikingNetwork, Tensor]:
    """Class 1 where the neuron fires, else class 0; and an input without events."""
    hidden, last = nn.Linear(len(weights), 1, bias=False), nn.Linear(1, 2)
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([weights]))
        last.weight.copy_(torch.tensor([[0.0], [1.0]]))
        last.bias.copy_(torch.tensor([0.5, 0.0]))
    net = SpikingNetwork([hidden, IF(threshold), last], 1, "membrane", "frames").eval()
    return net, torch.zeros(1, 1, len(weights))


def test_several_events_are_added_at_one_entry() -> None:
    net, x = one_neuron([0.125, 0.25, 0.1875], 0.75)
    for attack in (GreedyEvents(), FGSM(surrogate=Adaptive()), PGD()):
        result = attack(net, x, torch.tensor([0]), EventChanges(3))
        assert result.adversarial.flatten().tolist() == [0.0, 3.0, 0.0], attack.describe()


def test_events_that_were_not_needed_are_taken_back() -> None:
    net, x = one_neuron([1.0, 1.0], 2.0)
    result = GreedyEvents()(net, x, torch.tensor([0]), EventChanges(9))
    assert result.success.all() and float(result.adversarial.sum()) == 2.0
    random = RandomSearch(tries=50)(net, x, torch.tensor([0]), EventChanges(9))
    assert random.success.all() and float(random.adversarial.sum()) >= 2.0
