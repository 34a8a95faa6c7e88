"""Soundness: whatever a member of the input set makes the network do lies within its bounds.

`check` is the property. It runs under Hypothesis here on some hundred examples, and on as many as
one likes in ``benchmarks/tightness/soundness.py``. S-IBP is checked on all of them, with its bounds of every
layer; the other methods are checked on fewer, and against S-IBP.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soundness import (
    FIRST_LAYERS,
    FURTHER,
    ITERATIONS,
    RELAXED,
    RESETS,
    bound,
    check,
    check_members,
    check_method,
    check_refined,
    members,
    outcome,
    true_margins,
    weight_only,
)
from strategies import Example, examples
from torch import nn

from certsnn.affine import apply_chain
from certsnn.bounds import (
    Interval,
    layer_bounds,
    margin_bounds,
)
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.interval.flips import FlippedSpikes
from certsnn.bounds.interval.layers import Spikes, layer_of
from certsnn.bounds.interval.scans import Summed, scan_counts, scan_steps
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.inputsets import FreeSpikes, LinfBall, SpikeFlips
from certsnn.layers import as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Reset, scan


@settings(max_examples=100)
@given(examples())
def test_executed_traces_and_margins_lie_within_the_bounds(example: Example) -> None:
    check(example)


@pytest.mark.slow
@settings(max_examples=350)
@given(examples())
def test_executed_traces_and_margins_lie_within_the_bounds_of_more_networks(example: Example) -> None:
    check(example)


def test_all_relaxations_are_checked() -> None:
    assert set(RELAXED) == set(RELAXATIONS)


@pytest.mark.parametrize("method", FURTHER)
@settings(max_examples=25)
@given(example=examples(), relaxation=st.sampled_from(RELAXED))
def test_every_method_is_sound_and_nowhere_below_s_ibp(
    method: str, example: Example, relaxation: Literal["joint", "separate"]
) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), method, relaxation)


@pytest.mark.slow
@pytest.mark.parametrize("method", FURTHER)
@settings(max_examples=40)
@given(example=examples(), relaxation=st.sampled_from(RELAXED))
def test_every_method_on_more_networks(
    method: str, example: Example, relaxation: Literal["joint", "separate"]
) -> None:
    case = bound(example)
    check_method(case, outcome(case, list(members(case))), method, relaxation)


@settings(max_examples=60)
@given(examples(), st.sampled_from(RELAXED), st.sampled_from([0, ITERATIONS]))
def test_executed_traces_lie_within_the_refined_layers(
    example: Example, relaxation: Literal["joint", "separate"], iterations: int
) -> None:
    check_refined(example, relaxation, iterations)


@settings(max_examples=120)
@given(examples(ways=("flips",)))
def test_the_weight_only_ranking_is_sound_and_never_tighter(example: Example) -> None:
    case = bound(example)
    loose = weight_only(case)
    check_members(loose, list(members(case)))
    for wide, tight in zip(loose.rigorous, case.rigorous, strict=True):
        for outer, inner in zip(wide, tight, strict=True):
            assert (outer.lower <= inner.lower + 1e-9).all()
            assert (outer.upper >= inner.upper - 1e-9).all()
    assert (loose.verdict.margins <= case.verdict.margins + 1e-9).all()


@pytest.mark.parametrize("name", FIRST_LAYERS)
@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize(("steps", "budget"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_currents_under_a_flip_budget_are_the_enumerated_extremes(
    name: str, kind: Literal["any", "add", "drop"], steps: int, budget: int
) -> None:
    generator = torch.Generator().manual_seed(steps + 10 * budget)
    layers = FIRST_LAYERS[name]()
    for layer in layers:
        for parameter in layer.parameters():
            eighths = torch.randint(-8, 9, parameter.shape, generator=generator)
            parameter.data = eighths / 8
    operators = [as_affine(layer) for layer in layers]
    shape = (2, 2, 2) if name == "grouped" else (1, 2, 3)
    x0 = (torch.rand(steps, 2, *shape, generator=generator) < 0.5).float()
    flips = SpikeFlips(budget, kind)

    every = torch.stack(list(flips.enumerate(x0)))  # [M, T, B, ...]
    with torch.no_grad():
        currents = apply_chain(operators, every.flatten(0, 2)).unflatten(0, every.shape[:3])
        source = FlippedSpikes(x0, flips, feasible_flips)
        low, high = source.currents(operators, PLAIN)
        sum_low, sum_high = source.charge(operators, PLAIN).sums
    # Eighths are summed without rounding errors, so the bounds are exactly the extremes.
    assert torch.equal(low, currents.amin(0))
    assert torch.equal(high, currents.amax(0))
    assert torch.equal(sum_low, currents.cumsum(1).amin(0))
    assert torch.equal(sum_high, currents.cumsum(1).amax(0))


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize("name", ["linear", "convolution", "strided", "grouped", "one axis", "padded"])
def test_the_ranking_in_small_pieces_is_the_same(
    name: str, kind: Literal["any", "add", "drop"], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    operators = [as_affine(layer) for layer in FIRST_LAYERS[name]()]
    shape = (2, 2, 2) if name == "grouped" else (1, 2, 3)
    x0 = (torch.rand(3, 2, *shape) < 0.5).float()
    source = FlippedSpikes(x0, SpikeFlips(2, kind), feasible_flips)
    whole = source.charge(operators, PLAIN).sums
    monkeypatch.setattr("certsnn.bounds.interval.topk.GAINS", 1)
    pieces = source.charge(operators, PLAIN).sums
    assert torch.equal(whole.lower, pieces.lower)
    assert torch.equal(whole.upper, pieces.upper)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("reset", RESETS, ids=str)
@pytest.mark.parametrize("interval", [(0.25, 0.75), (-0.5, 1.5), (0.5, 0.5), (0.75, 1.25), (1.0, 2.0)])
def test_one_neuron_against_all_current_trains(
    decay: float, reset: Reset, interval: tuple[float, float]
) -> None:
    low, high = interval
    neuron = LIF(1.0, decay, reset, initial=0.125).dynamics()
    values = torch.linspace(low, high, 7)
    trains = torch.cartesian_prod(*[values] * 4).T[..., None].contiguous()  # [T, 7^4, 1]
    trace = scan(trains, neuron)
    box = Interval(torch.full((4, 1, 1), low), torch.full((4, 1, 1), high))
    source = Spikes(box)  # any numbers within an interval: the bounds do not ask for more
    layer = layer_of(source, (), neuron, PLAIN)
    for bounds, found in ((layer.membranes, trace.membranes), (layer.spikes, trace.spikes)):
        assert (bounds.lower <= found).all()
        assert (found <= bounds.upper).all()
    # Step by step, the first two membranes have no slack: they follow an interval whose ends are
    # reached, or approached from below the threshold.
    membranes, spikes = scan_steps(Interval(box.lower, box.upper), neuron)
    assert torch.equal(membranes.lower[0, 0], trace.membranes[0].amin(0))
    assert torch.equal(membranes.upper[0, 0], trace.membranes[0].amax(0))
    assert torch.equal(spikes.lower[0, 0], trace.spikes[0].amin(0))
    assert torch.equal(spikes.upper[0, 0], trace.spikes[0].amax(0))
    reach = (high - low) / 6 * max(decay, float(neuron.gain))
    assert (membranes.lower[1, 0] >= trace.membranes[1].amin(0) - reach).all()
    assert (membranes.upper[1, 0] <= trace.membranes[1].amax(0) + reach).all()
    assert (membranes.lower[:, 0] <= trace.membranes.amin(1)).all()
    assert (membranes.upper[:, 0] >= trace.membranes.amax(1)).all()


@pytest.mark.parametrize("reset", ["subtract", (1.0, 0.5), (1.0, -0.25), (1.0, -2.0)], ids=str)
@pytest.mark.parametrize("initial", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("interval", [(0.25, 0.75), (-0.5, 1.5), (0.5, 0.5), (1.0, 2.5)])
def test_counts_of_one_neuron_are_the_enumerated_extremes(
    reset: Reset, initial: float, interval: tuple[float, float]
) -> None:
    neuron = IF(1.0, reset, initial=initial).dynamics()
    assert neuron.lossless
    trains = torch.cartesian_prod(*[torch.tensor(interval)] * 6).T[..., None].contiguous()
    counts = scan(trains, neuron).spikes.cumsum(0)
    times = torch.arange(1.0, 7.0)[:, None, None]
    cumulative = Interval(interval[0] * times, interval[1] * times)
    bounds = scan_counts(Summed(cumulative), neuron, 0.0).counts
    assert torch.equal(bounds.lower[:, 0], counts.amin(1))
    assert torch.equal(bounds.upper[:, 0], counts.amax(1))


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_an_empty_threat_gives_the_executed_traces(
    readout: Literal["rate", "membrane"], kind: Literal["image", "spikes"]
) -> None:
    torch.manual_seed(1)
    last: list[nn.Module] = [nn.Linear(8, 3)] if readout == "membrane" else [nn.Linear(8, 3), IF(0.4)]
    layers = [nn.Linear(6, 8), LIF(0.3), nn.Linear(8, 8), IF(0.3), *last]
    network = SpikingNetwork(layers, 5, readout, kind).eval()
    x = torch.rand(4, 6) if kind == "image" else (torch.rand(5, 4, 6) < 0.5).float()
    y = network(x).argmax(1)
    empty, real = (LinfBall(0.0), LinfBall(0.1)) if kind == "image" else (SpikeFlips(0), SpikeFlips(2))
    for layer, trace in zip(layer_bounds(network, x, empty), network.freeze().traces(x), strict=True):
        for interval, values in zip(layer, trace, strict=True):
            torch.testing.assert_close(interval.lower, values)
            torch.testing.assert_close(interval.upper, values)
    margin = margin_bounds(network, x, y, empty)
    torch.testing.assert_close(margin, true_margins(network(x), y).float())
    assert (margin_bounds(network, x, y, real) <= margin + 1e-6).all()
    # A box of spikes around x0 alone says the same.
    if kind == "spikes":
        same = margin_bounds(network, x, y, FreeSpikes(0.0))
        torch.testing.assert_close(same, margin)


def test_a_flip_budget_of_all_bits_is_no_looser_than_the_free_box() -> None:
    torch.manual_seed(2)
    network = SpikingNetwork([nn.Linear(4, 6), LIF(0.3), nn.Linear(6, 3), IF(0.4)], 3, input="spikes").eval()
    x = (torch.rand(3, 5, 4) < 0.5).float()
    y = network(x).argmax(1)
    box = margin_bounds(network, x, y, FreeSpikes(1.0))
    flips = margin_bounds(network, x, y, SpikeFlips(12))
    torch.testing.assert_close(flips, box)


@pytest.mark.parametrize(
    "layers",
    [
        [LIF(0.5), nn.Linear(4, 3), LIF(0.5)],
        [IF(0.5), nn.Linear(4, 3), LIF(0.5)],
    ],
    ids=["LIF first", "IF first"],
)
def test_a_network_may_begin_with_neurons(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(layers, 3, input="spikes").eval()
    x = (torch.rand(3, 2, 4) < 0.5).float()
    for threat in (FreeSpikes(0.2), SpikeFlips(0), SpikeFlips(2, "add"), SpikeFlips(2)):
        check(Example(network, threat, x, "smooth", 0))


def test_a_linear_layer_over_rows_is_refused() -> None:
    layers = [nn.Linear(4, 2), LIF(0.3), nn.Flatten(), nn.Linear(6, 3), LIF(0.3)]
    network = SpikingNetwork(layers, 3, input="spikes").eval()
    x = (torch.rand(3, 2, 3, 4) < 0.5).float()
    with pytest.raises(ValueError, match="put a Flatten before it"):
        margin_bounds(network, x, torch.tensor([0, 1]), SpikeFlips(2))
