"""What attacks find: nothing proved impossible, all that exhaustive search finds, no needless flips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Example, examples
from torch import Tensor, nn

from certsnn.attacks import (
    FGSM,
    G2S,
    PGD,
    RSF,
    Attack,
    ExhaustiveFlips,
    GreedyFlips,
    Margin,
    RandomSearch,
)
from certsnn.bounds import certify
from certsnn.inputsets import InputSet, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import strictly_correct

STEPS, FEATURES = 3, 4
BITS = STEPS * FEATURES


def tiny(seed: int, readout: str = "membrane") -> SpikingNetwork:
    """A random network on spikes [3, B, 4]."""
    torch.manual_seed(seed)
    neuron = LIF(0.5, 0.7) if seed % 2 else IF(0.5)
    layers = [nn.Linear(FEATURES, 8), neuron, nn.Linear(8, 8), IF(0.5), nn.Linear(8, 3)]
    if readout == "rate":
        layers.append(IF(0.5))
    network = SpikingNetwork(layers, STEPS, readout, "spikes")  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in network.layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(2)
    return network.eval()


def batch_of(network: SpikingNetwork, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Spikes that the network classifies without a tie, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (STEPS, samples, FEATURES), generator=generator).float()
    with torch.no_grad():
        logits = network(x)
    y = logits.argmax(1)
    clear = strictly_correct(logits, y)
    return x[:, clear], y[clear]


def all_trains() -> Tensor:
    """All spikes, [3, 2**12, 4]."""
    codes = torch.arange(2**BITS)[:, None] >> torch.arange(BITS) & 1
    return codes.float().view(-1, STEPS, FEATURES).movedim(0, 1)


def count(flips: Tensor) -> Tensor:
    return flips.sum((0, 2))


Rule = Callable[[Tensor, Tensor], Tensor]


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize(
    ("input_set", "allows"),
    [
        (SpikeFlips(0), lambda flips, x: flips.sum((0, 2)) == 0),
        (SpikeFlips(2), lambda flips, x: flips.sum((0, 2)) <= 2),
        (
            SpikeFlips(3, kind="add"),
            lambda flips, x: (flips.sum((0, 2)) <= 3) & ((flips * x).sum((0, 2)) == 0),
        ),
    ],
    ids=["none", "any", "add"],
)
@torch.no_grad()
def test_exhaustive_is_brute_force(input_set: InputSet, allows: Rule, readout: str) -> None:
    network = tiny(3, readout)
    x, y = batch_of(network, 12, 0)
    result = ExhaustiveFlips()(network, x, y, input_set)
    trains = all_trains()
    for sample, label in enumerate(y):
        own = x[:, sample : sample + 1]
        flips = (trains - own).abs()
        allowed = allows(flips, own)
        logits = network(trains[:, allowed])
        broken = ~strictly_correct(logits, label.expand(len(logits)))
        assert bool(broken.any()) == bool(result.success[sample])
        if broken.any():  # fewer flips come first, so what is found has the least number of them
            fewest = count(flips[:, allowed][:, broken]).min()
            assert (result.adversarial[:, sample] - x[:, sample]).abs().sum() == fewest


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_greedy_finds_what_exhaustive_finds(budget: int) -> None:
    found = there = 0
    for seed in range(20):
        network = tiny(seed, "rate" if seed % 4 < 2 else "membrane")
        x, y = batch_of(network, 20, seed)
        exact = ExhaustiveFlips()(network, x, y, SpikeFlips(budget)).success
        greedy = GreedyFlips()(network, x, y, SpikeFlips(budget)).success
        assert not (greedy & ~exact).any()
        found, there = found + int(greedy.sum()), there + int(exact.sum())
    assert there > 50 and found >= 0.95 * there


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@torch.no_grad()
def test_greedy_makes_no_needless_flips(kind: str) -> None:
    """From a large budget: undoing any one of the flips that are left mends the sample."""
    network = tiny(2)
    x, y = batch_of(network, 30, 5)
    result = GreedyFlips()(network, x, y, SpikeFlips(4, kind=kind))  # type: ignore[arg-type]
    assert result.success.any()
    for sample in result.success.nonzero().squeeze(1).tolist():
        own, adversarial = (t[:, sample : sample + 1] for t in (x, result.adversarial))
        for place in (own != adversarial).nonzero().tolist():
            fewer = adversarial.clone()
            fewer[tuple(place)] = 1 - fewer[tuple(place)]
            assert strictly_correct(network(fewer), y[sample : sample + 1])


def strong(threat_input: str) -> list[Attack]:
    """Attacks of all kinds, small enough for a property-based test."""
    both: list[Attack] = [
        G2S(iterations=4),
        G2S(iterations=4, loss=Margin(), gamma=0.3),
        RSF(iterations=3, gamma=0.3),
        RandomSearch(tries=10),
    ]
    if threat_input == "frames":
        return [RandomSearch(tries=10), FGSM(), PGD(iterations=4)]
    if threat_input == "image":
        return [*both, FGSM(), PGD(iterations=4)]
    return [*both, GreedyFlips(rounds=6)]


@settings(max_examples=60)
@given(examples(), st.integers(0, 1000))
def test_what_is_certified_is_never_broken(example: Example, seed: int) -> None:
    network, (x0, input_set) = example.network, bind(example)
    with torch.no_grad():
        y = network(x0).argmax(1)
    attacks = strong(input_set.domain)
    for method in ("s-ibp", "s-crown-ibp"):
        certified = certify(network, x0, y, input_set, method).certified
        for attack in attacks:
            result = attack(network, x0, y, input_set)
            assert input_set.contains(x0, result.adversarial).all()
            assert not (result.success & certified).any(), (attack.describe(), method)


def bind(example: Example) -> tuple[Tensor, InputSet]:
    batch = example.x.shape[0 if example.threat.domain == "image" else 1]
    return example.threat.bind(example.x, torch.arange(batch))
