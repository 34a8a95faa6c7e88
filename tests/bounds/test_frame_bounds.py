"""Bounds where frames or counts of events enter: against enumeration, and through whole networks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from soundness import FURTHER, check
from strategies import FRAMES, Example, examples
from torch import Tensor, nn

from certsnn.affine import apply_chain, fold
from certsnn.bounds import certify, margin_bounds
from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, PLAIN, RIGOROUS, Interval
from certsnn.bounds.interval.frames import BoundedFrames, ChangedCounts
from certsnn.bounds.interval.topk import any_weights, feasible_flips
from certsnn.bounds.search.constraints import Box
from certsnn.bounds.search.model import Model
from certsnn.bounds.search.restrictions import restrict_events
from certsnn.inputsets import EventChanges, LinfFrames, SpikeFlips, Threat
from certsnn.inputsets.flips import Kind
from certsnn.layers import as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import over_time


@settings(max_examples=40)
@given(examples(FRAMES))
def test_executed_traces_and_margins_lie_within_the_bounds(example: Example) -> None:
    check(example)


@settings(max_examples=10)
@given(examples(FRAMES, most=2))
def test_all_methods_are_sound(example: Example) -> None:
    check(example, FURTHER)


@pytest.mark.parametrize("body", ["LIF", "IF", "convolution"])
@pytest.mark.parametrize("threat", [LinfFrames(0.2, -1, 1), EventChanges(2)], ids=["frames", "events"])
def test_networks_over_eight_steps(body: str, threat: Threat) -> None:
    torch.manual_seed(5)
    neuron = LIF(0.4, 0.6) if body == "LIF" else IF(0.4, "subtract")
    first = (
        [nn.Conv2d(1, 3, 2), neuron, nn.Flatten()]
        if body == "convolution"
        else [nn.Flatten(), nn.Linear(9, 6), neuron]
    )
    layers = [*first, nn.Linear(12 if body == "convolution" else 6, 5), neuron, nn.Linear(5, 3)]
    network = SpikingNetwork(layers, 8, "membrane", "frames").eval()
    x = 2 * torch.rand(8, 2, 1, 3, 3) - 1
    check(Example(network, threat, (2 * x).relu().ceil() if threat.size == "budget" else x, "smooth", 0))


# Real frames in the count domain


def test_magnitudes_of_frames_that_cancel_add_up() -> None:
    # The sum of the currents 1/3 and -1/3 is 0, and yet both have been rounded.
    x = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1 / 3)
    charge = BoundedFrames(Interval(x, x)).charge([as_affine(layer)], RIGOROUS).sums
    radius = ((charge.upper - charge.lower) / 2).detach().flatten()
    for step in range(3):
        assert float(radius[step]) >= (step + 1) * FLOAT32_UNIT / 3
    assert float(radius[2]) < 12 * FLOAT32_UNIT  # and no more than that


@pytest.mark.parametrize("small", [2.0**-54, 1.5 * 2.0**-53])
def test_what_float64_sums_of_frames_round_off_is_covered(small: float) -> None:
    """A 1, then numbers that float64 sums lose, or round up by: against sums of fractions."""
    x = torch.tensor([1.0] + 15 * [small]).view(16, 1, 1)
    exact = [Fraction(1) + step * Fraction(small) for step in range(16)]
    for sign in (1, -1):
        low, high = BoundedFrames(Interval(sign * x, sign * x)).charge((), RIGOROUS).sums
        for step, total in enumerate(exact):
            assert Fraction(float(low[step])) <= sign * total <= Fraction(float(high[step]))
            assert float(high[step] - low[step]) < 1e-14


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sums_of_executed_currents_lie_within_their_bounds(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(7, 5)
    with torch.no_grad():
        for values in layer.parameters():
            values.copy_(100 * torch.randn(values.shape, generator=generator))
    operators = fold([as_affine(layer)])
    x = torch.randn(8, 3, 7, generator=generator)
    radius = 0.1 * torch.rand(x.shape, generator=generator)
    with torch.no_grad():
        charge = BoundedFrames(Interval(x - radius, x + radius)).charge(operators, RIGOROUS).sums
        narrow = BoundedFrames(Interval(x, x)).charge(operators, RIGOROUS).sums
        for sign in (0, 1, -1):
            executed = over_time(lambda rows: apply_chain(operators, rows), x + sign * radius)
            sums = executed.double().cumsum(0)
            assert ((charge.lower <= sums) & (sums <= charge.upper)).all()
            if sign == 0:
                assert ((narrow.lower <= sums) & (sums <= narrow.upper)).all()


# Currents under a budget of events

LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Flatten(), nn.Linear(4, 3)],
    "convolution": lambda: [nn.Conv2d(1, 2, 2, padding=1)],
    "pooled": lambda: [nn.AvgPool2d(2, stride=1, padding=1), nn.Flatten(), nn.Linear(9, 2)],
}


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize("most", [None, 2, 3])
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_currents_under_a_budget_of_events_are_the_enumerated_extremes(
    layers: str, kind: Kind, most: int | None, budget: int
) -> None:
    torch.manual_seed(budget)
    operators = fold([as_affine(layer) for layer in LAYERS[layers]()])
    x0 = torch.randint(0, 3, (2, 2, 1, 2, 2)).float()
    changes = EventChanges(budget, kind, most)
    with torch.no_grad():
        source = ChangedCounts(x0, changes, feasible_flips)
        members = torch.cat(list(changes.enumerate(x0)), 1)
        currents = over_time(lambda frames: apply_chain(operators, frames), members)
        for sums, found in (
            (currents, source.currents(operators, PLAIN)),
            (currents.cumsum(0), source.charge(operators, PLAIN).sums),
        ):
            each = sums.unflatten(1, (-1, 2))
            torch.testing.assert_close(found.lower, each.amin(1), rtol=0, atol=1e-5)
            torch.testing.assert_close(found.upper, each.amax(1), rtol=0, atol=1e-5)
        # The weights alone give no more than that, and so does rounding.
        loose = ChangedCounts(x0, changes, any_weights)
        covered = ChangedCounts(x0, changes, feasible_flips)
        for wide, tight in (
            (loose.currents(operators, PLAIN), source.currents(operators, PLAIN)),
            (loose.charge(operators, PLAIN).sums, source.charge(operators, PLAIN).sums),
            (covered.currents(operators, RIGOROUS), source.currents(operators, PLAIN)),
        ):
            assert (wide.lower <= tight.lower + 1e-5).all() and (wide.upper >= tight.upper - 1e-5).all()


def test_events_of_spikes_are_flips_where_one_event_is_the_most() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(6, 8), LIF(0.3), nn.Linear(8, 3)], 4, "membrane", "frames").eval()
    spiking = SpikingNetwork(list(network.layers), 4, "membrane", "spikes").eval()
    x = (torch.rand(4, 3, 6) < 0.4).float()
    y = network(x).argmax(1)
    for method in ("s-ibp", "s-crown-ibp", "s-crown"):
        events = margin_bounds(network, x, y, EventChanges(2, most=1), method)
        torch.testing.assert_close(events, margin_bounds(spiking, x, y, SpikeFlips(2), method))


# The search


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
def test_the_rows_hold_for_the_members_alone(kind: Kind) -> None:
    x0 = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])
    changes = EventChanges(2, kind, most=3)
    model = Model()
    lower, upper = (end.flatten().double().numpy() for end in changes.box(x0))
    free = (lower < upper).nonzero()[0]
    inputs = np.full(4, -1)
    inputs[free] = model.variables(lower[free], upper[free], True)
    restrict_events(model, x0.view(2, 2).double().numpy(), inputs.reshape(2, 2), changes)
    rows = model.constraints(csr_matrix((1, model.size)), np.inf)
    for x in product(range(5), repeat=4):
        member = torch.tensor(x, dtype=torch.float32).view(x0.shape)
        point = np.array(x, dtype=float)
        if not ((lower <= point) & (point <= upper)).all():
            continue
        box = Box(model.box.lower.copy(), model.box.upper.copy())
        box.lower[inputs[free]] = box.upper[inputs[free]] = point[free]
        assert (rows.propagated(box) is not None) == bool(changes.contains(x0, member))


@pytest.mark.parametrize(
    ("start", "threshold", "kind", "rival", "bias"),
    [
        (0.0, 1.0, "any", 1.0, 1.5),
        (0.0, 1.0, "add", 1.0, 1.5),
        (1.0, 2.0, "any", 1.0, 1.5),
        (1.0, 0.75, "drop", -1.0, -0.5),
        (1.0, 0.75, "any", -1.0, -0.5),
    ],
)
def test_the_search_knows_that_the_budget_is_one_for_all(
    start: float, threshold: float, kind: Kind, rival: float, bias: float
) -> None:
    # Two neurons that one event each turns over; the class is lost only if both do.
    hidden, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    with torch.no_grad():
        hidden.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([[0.0, 0.0], [rival, rival]]))
        last.bias.copy_(torch.tensor([bias, 0.0]))
    network = SpikingNetwork([hidden, IF(threshold), last], 1, "membrane", "frames").eval()
    x = torch.full((1, 1, 2), start)
    y = network(x).argmax(1)
    assert y.tolist() == [0]
    assert not certify(network, x, y, EventChanges(1, kind), "s-ibp").certified.any()
    assert certify(network, x, y, EventChanges(1, kind), "branch-and-bound").certified.all()
    assert not certify(network, x, y, EventChanges(2, kind), "branch-and-bound").certified.any()


def test_the_search_does_not_take_real_frames_for_whole_numbers() -> None:
    # The neuron fires from 0.5 on, between the whole numbers of [0, 0.9].
    hidden, last = nn.Linear(1, 1, bias=False), nn.Linear(1, 2)
    with torch.no_grad():
        hidden.weight.fill_(1.0)
        last.weight.copy_(torch.tensor([[0.0], [2.0]]))
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    network = SpikingNetwork([hidden, IF(0.5), last], 1, "membrane", "frames").eval()
    x, y = torch.full((1, 1, 1), 0.1), torch.tensor([0])
    assert not certify(network, x, y, LinfFrames(0.8, 0, 1), "branch-and-bound").certified.any()
    assert certify(network, x, y, LinfFrames(0.3, 0, 1), "branch-and-bound").certified.all()


# What does not fit


@pytest.mark.parametrize("threat", [LinfFrames(0.1), EventChanges(1)], ids=["frames", "events"])
def test_a_threat_to_frames_needs_a_network_of_frames(threat: Threat) -> None:
    layers = [nn.Linear(3, 4), IF(), nn.Linear(4, 2)]
    x, y = torch.ones(2, 1, 3), torch.tensor([0])
    for kind in ("image", "spikes"):
        network = SpikingNetwork(layers, 2, "membrane", kind).eval()
        with pytest.raises(ValueError, match=rf"needs a network with input='frames', .* input='{kind}'"):
            certify(network, x, y, threat)
    network = SpikingNetwork(layers, 2, "membrane", "frames").eval()
    with pytest.raises(ValueError, match="needs a network with input='spikes', this one has input='frames'"):
        certify(network, x, y, SpikeFlips(1))
    for bad, message in (
        (x + 0.5, "whole numbers|must lie within"),
        (x - 2, "whole numbers|must lie within"),
    ):
        with pytest.raises(ValueError, match=message):
            certify(network, bad, y, threat)


def test_frames_that_can_not_enter_are_refused() -> None:
    network = SpikingNetwork([nn.Linear(3, 4), IF(), nn.Linear(4, 2)], 2, "membrane", "frames").eval()
    with pytest.raises(ValueError, match=r"frames must be \[T, B, \.\.\.\] with T >= 1"):
        network(torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"frames must be a float tensor, got torch\.int64"):
        network(torch.ones(2, 1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN"):
        network(torch.full((2, 1, 3), torch.nan))
    with pytest.raises(ValueError, match="steps=3, but the frames have only 2 steps"):
        network(torch.rand(2, 1, 3), steps=3)
    with pytest.raises(ValueError, match="'image', 'spikes' or 'frames', got 'sound'"):
        SpikingNetwork([nn.Linear(3, 4), IF()], 2, input="sound")  # type: ignore[arg-type]


def test_frames_may_be_any_numbers_and_are_taken_step_by_step() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    network = SpikingNetwork([layer, IF(1.0), nn.Flatten()], 1, "membrane", "frames").eval()
    x: Tensor = torch.tensor([0.75, -0.5, 1.0, 0.5]).view(4, 1, 1)
    # Membranes 0.75, 0.25, 1.25 (fires, 0.25 is left), 0.75.
    assert network(x).item() == 0.25
    assert network(x, steps=2).item() == 0.0
