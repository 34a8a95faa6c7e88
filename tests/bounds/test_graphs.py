"""Bounds of graphs: shortcuts and branches, by the property that chains have, and by enumeration."""

from __future__ import annotations

from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soundness import ITERATIONS, RELAXED, bound, check, check_method, check_refined, members, outcome
from strategies import Example, examples
from torch import Tensor, nn

from certsnn.bounds import certify, layer_bounds, margin_bounds
from certsnn.graph import Branches, Residual
from certsnn.inputsets import LinfBall, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron


@settings(max_examples=60)
@given(examples(graphs=True))
def test_executed_traces_and_margins_lie_within_the_bounds(example: Example) -> None:
    check(example)


@pytest.mark.slow
@settings(max_examples=120)
@given(examples(graphs=True))
def test_more_graphs(example: Example) -> None:
    check(example)


@settings(max_examples=60)
@given(examples(graphs=True))
def test_s_crown_ibp_is_sound_and_nowhere_below_s_ibp(example: Example) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), "s-crown-ibp", "joint")


@pytest.mark.parametrize("method", ["s-crown", "alpha-s-crown"])
@settings(max_examples=15)
@given(example=examples(graphs=True), relaxation=st.sampled_from(RELAXED))
def test_refining_methods_are_sound_and_nowhere_below_s_ibp(
    method: str, example: Example, relaxation: Literal["joint", "separate"]
) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), method, relaxation)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["s-crown", "alpha-s-crown"])
@settings(max_examples=50)
@given(example=examples(graphs=True), relaxation=st.sampled_from(RELAXED))
def test_refining_methods_on_more_graphs(
    method: str, example: Example, relaxation: Literal["joint", "separate"]
) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), method, relaxation)


@settings(max_examples=20)
@given(examples(graphs=True), st.sampled_from(RELAXED), st.sampled_from([0, ITERATIONS]))
def test_executed_traces_lie_within_the_refined_layers(
    example: Example, relaxation: Literal["joint", "separate"], iterations: int
) -> None:
    check_refined(example, relaxation, iterations)


@pytest.mark.slow
@settings(max_examples=60)
@given(examples(graphs=True), st.sampled_from(RELAXED), st.sampled_from([0, ITERATIONS]))
def test_refined_layers_of_more_graphs(
    example: Example, relaxation: Literal["joint", "separate"], iterations: int
) -> None:
    check_refined(example, relaxation, iterations)


def spike_trains(steps: int, bits: int) -> Tensor:
    """All 0/1 inputs ``[T, N, bits]``."""
    rows = torch.tensor(list(product((0.0, 1.0), repeat=steps * bits)))
    return rows.view(-1, steps, bits).movedim(1, 0)


@pytest.mark.parametrize("neuron", [LIF(0.5, 0.5), IF(0.5)])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_a_tiny_residual_network_hold_for_every_input(neuron: Neuron, seed: int) -> None:
    """All 64 spike trains; numbers with few bits, so that thresholds are met exactly through sums."""
    generator = torch.Generator().manual_seed(seed)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        for parameter in layer.parameters():
            parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator) / 8
        return layer

    body = Residual([linear(2, 2), neuron], linear(2, 2))
    layers = [linear(2, 2), neuron, body, Branches([linear(2, 1), neuron], []), linear(3, 2)]
    network = SpikingNetwork(layers, 3, "membrane", "spikes").eval()
    every = spike_trains(3, 2)
    with torch.no_grad():
        traces, logits = network.freeze().traces(every), network(every)
    x = every[:, :1]
    y = logits[:1].argmax(1)
    for budget in (1, 2, 6):
        near = ((every - x).abs().sum((0, 2)) <= budget).nonzero()[:, 0]
        for rounding in (False, True):
            layers_known = layer_bounds(network, x, SpikeFlips(budget), rounding=rounding)
            for known, trace in zip(layers_known, traces, strict=True):
                for interval, values in zip(known, trace, strict=True):
                    assert (interval.lower <= values[:, near]).all()
                    assert (interval.upper >= values[:, near]).all()
            rivals = logits[near, y] - logits[near, 1 - y]
            for method in ("s-ibp", "s-crown-ibp", "s-crown", "alpha-s-crown"):
                flips = SpikeFlips(budget)
                claimed = margin_bounds(network, x, y, flips, method, rounding=rounding, iterations=1)
                assert float(claimed.detach()) <= float(rivals.min()) + (0 if rounding else 1e-6)


def test_rounding_of_a_sum_of_two_paths_is_covered() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in float32: thresholds are met through it, over 16 steps."""
    first = nn.Linear(1, 3, bias=False)
    first.weight.data = torch.tensor([[0.1], [0.2], [0.3]])
    narrow = [nn.Linear(3, 1, bias=False) for _ in range(2)]
    narrow[0].weight.data = torch.tensor([[1.0, 1.0, 0.0]])
    narrow[1].weight.data = torch.tensor([[0.0, 0.0, -1.0]])
    for threshold in (0.3, 0.1, 0.7):
        neuron = IF(threshold)
        layers = [first, Residual(narrow[0], narrow[1]), neuron]
        network = SpikingNetwork(layers, 16).eval()
        x = torch.linspace(0.5, 1.5, 101)[:, None]
        with torch.no_grad():
            (trace,) = network.freeze().traces(x)
        (known,) = layer_bounds(network, x, LinfBall(0.0, low=None, high=None), rounding=True)
        for interval, values in zip(known, trace, strict=True):
            assert (interval.lower <= values).all() and (values <= interval.upper).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_maximum_of_spikes_is_an_or(seed: int) -> None:
    """Pooled spikes beside neurons that fire if one of a window does: same spikes, same intervals."""
    torch.manual_seed(seed)
    first, last = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 9, 3)
    window = nn.Conv2d(3, 3, 2, stride=2, groups=3, bias=False)
    window.weight.data.fill_(1.0)
    first.weight.data.mul_(2)
    neuron = LIF(0.3, 0.5)
    pooled = SpikingNetwork([first, neuron, nn.MaxPool2d(2), nn.Flatten(), last], 5, "membrane").eval()
    ored = [first, neuron, window, LIF(0.5, decay=0.0), nn.Flatten(), last]
    written = SpikingNetwork(ored, 5, "membrane").eval()
    x = torch.rand(8, 1, 6, 6)
    with torch.no_grad():
        values = pooled.freeze().values(x)
        assert torch.equal(values[2], written.freeze().traces(x)[1].spikes)
        assert 0.1 < float(values[2].mean()) < 0.9
        y = pooled(x).argmax(1)
        for rounding in (False, True):
            problems = [(network, x, y, LinfBall(0.05)) for network in (pooled, written)]
            margins = [margin_bounds(*problem, rounding=rounding) for problem in problems]
            assert torch.allclose(margins[0], margins[1], atol=1e-5)
        relaxed = margin_bounds(pooled, x, y, LinfBall(0.05), "s-crown-ibp")
        assert (relaxed > margins[0].float() + 1e-3).any()


def test_a_shortcut_that_cancels_is_seen_through_by_backward_passes() -> None:
    """x - x: intervals know nothing of it, a backward pass adds the coefficients up."""
    same, minus = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    same.weight.data, minus.weight.data = torch.eye(2), -torch.eye(2)
    last = nn.Linear(2, 2)
    last.weight.data, last.bias.data = torch.eye(2), torch.tensor([1.0, 0.0])
    first, neuron = nn.Linear(2, 2, bias=False), LIF(0.5, 0.5)
    first.weight.data = torch.eye(2)
    layers = [first, neuron, Residual(same, minus), last]
    network = SpikingNetwork(layers, 4, "membrane").eval()
    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    assert not certify(network, x, y, LinfBall(0.4)).certified
    assert certify(network, x, y, LinfBall(0.4), "s-crown-ibp").certified
