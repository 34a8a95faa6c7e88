"""No member of an input set goes below a bound, by any method."""

from __future__ import annotations

import random
from typing import Literal

import pytest
import torch
from small_networks import (
    OURS,
    RELAXED,
    dense,
    every_bound,
    images_around,
    least_margins,
    problem_of,
    random_images,
    random_network,
    random_set,
    random_spikes,
    train,
)
from torch import nn

from certsnn.bounds import METHODS, certify
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS
from certsnn.bounds.options import BoundOptions
from certsnn.inputsets import LinfBall, SpikeBox
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Reset


@pytest.mark.parametrize("readout", ["membrane", "rate"])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_no_train_of_spikes_goes_below_a_bound(method: str, readout: Literal["rate", "membrane"]) -> None:
    for seed in range(100, 106):
        network = random_network(seed, "spikes", readout)
        x0 = random_spikes(network, seed)
        input_set = random_set(seed, x0)
        members = list(input_set.enumerate(x0))
        y = network(x0).argmax(1)
        least = least_margins(network, y, random.Random(seed).sample(members, min(150, len(members))))
        for found, tolerance in every_bound(network, x0, y, input_set, method):
            assert (found <= least + tolerance).all(), seed


@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_no_image_goes_below_a_bound(method: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    for seed in range(200, 206):
        network = random_network(seed, "image")
        x0, ball = random_images(seed), LinfBall(0.08)
        y = network(x0).argmax(1)
        least = least_margins(network, y, images_around(x0, ball, 150, seed))
        for found, tolerance in every_bound(network, x0, y, ball, method):
            assert (found <= least + tolerance).all(), seed


@pytest.mark.parametrize("reset", [0.6, (0.0, 0.3), (0.5, -0.3)], ids=str)
@pytest.mark.parametrize("method", OURS)
def test_what_a_neuron_that_fires_for_sure_is_reset_to_counts_at_the_next_step(
    method: str, reset: Reset
) -> None:
    """Neuron 1 fires at step 1 and is undecided at step 2, where only the reset speaks for step 1.

    Neuron 0 rests, so that neuron 1 is the first of what matters at step 2, and not at step 1.
    """
    layers = [
        dense([[0.0, 0.0], [1.2, 0.75]]),
        LIF(1.0, 0.5, reset),
        dense([[0.0, -1.0], [0.0, 0.0]], [0.9, 0.0]),
    ]
    network = SpikingNetwork(layers, 2, "membrane", "spikes").eval()
    x0 = train([1.0, 0.0], [0.0, 0.0])
    box = SpikeBox(x0, train([1.0, 0.0], [0.0, 1.0]))
    y = torch.tensor([0])
    least = least_margins(network, y, list(box.enumerate(x0)))
    assert least < 0, "the free bit takes the win away"
    for found, tolerance in every_bound(network, x0, y, box, method):
        assert (found <= least + tolerance).all()
    assert certify(network, x0, y, box, method).status in (["unknown"], ["broken"])


@pytest.mark.parametrize("most", [0, 1, 1000])
@pytest.mark.parametrize("neuron", [LIF(1.0, 0.9, "subtract"), IF(1.0), LIF(1.0, 0.5, 0.6)], ids=str)
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_a_constant_current_enters_at_every_step(
    method: str, neuron: Neuron, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the first layer is relaxed: by the pieces of its current, or (there are too many) by steps."""
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    for seed in range(2):
        torch.manual_seed(seed)
        first, last = nn.Linear(2, 5), nn.Linear(5, 2)
        first.weight.data *= 4
        network = SpikingNetwork([first, neuron, last], 4, "membrane").eval()
        x, ball = torch.rand(3, 2), LinfBall(0.05)
        y = network(x).argmax(1)
        least = least_margins(network, y, images_around(x, ball, 50, seed))
        for found, tolerance in every_bound(network, x, y, ball, method):
            assert (found <= least + tolerance).all(), seed


@pytest.mark.parametrize("most", [0, 1000])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_a_neuron_that_is_undecided_at_a_late_step_only_counts_there(
    method: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neuron 1 fires at step 1 for sure, is reset to nothing, and is undecided at step 3; neuron 0 rests."""
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    readout = dense([[0.0, -1.0], [0.0, 0.0]], [0.5, 0.0])
    layers = [dense([[0.0], [1.0]]), LIF(1.0, 0.5, "zero", initial=0.8), readout]
    network = SpikingNetwork(layers, 3, "membrane").eval()
    x0, ball, y = torch.tensor([[0.6]]), LinfBall(0.2), torch.tensor([0])
    least = least_margins(network, y, images_around(x0, ball, 40, 0))
    assert least < 0, "the third spike takes the win away"
    for found, tolerance in every_bound(network, x0, y, ball, method):
        assert (found <= least + tolerance).all()
    assert certify(network, x0, y, ball, method).status in (["unknown"], ["broken"])


@pytest.mark.parametrize("relaxation", RELAXED)
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_networks_in_the_count_domain_are_nowhere_below_s_ibp(
    method: str, relaxation: Literal["joint", "separate"]
) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 8), IF(0.3), nn.Linear(8, 8), IF(0.4), nn.Linear(8, 3), IF(0.3)]
        network = SpikingNetwork(layers, 4).eval()
        x, ball = torch.rand(2, 4), LinfBall(0.05)
        y = network(x).argmax(1)
        for arithmetic in (PLAIN, RIGOROUS):
            problem = problem_of(network, x, y, ball, arithmetic)
            interval = METHODS["s-ibp"](problem, BoundOptions())
            found = METHODS[method](problem, BoundOptions(relaxation=relaxation, iterations=1))
            assert (found >= interval - 1e-9).all()
