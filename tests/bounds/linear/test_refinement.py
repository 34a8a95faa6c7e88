"""Refined layers and optimised slopes: bounds that are exact, and none that loses."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from small_networks import (
    OURS,
    RELAXED,
    dense,
    every_bound,
    least_margins,
    problem_of,
    random_images,
    random_network,
    random_set,
    random_spikes,
    train,
)
from torch import nn

from certsnn.bounds import METHODS, certify, layer_bounds, margin_bounds
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.interval.propagate import layers_of
from certsnn.bounds.linear.backward import Firing
from certsnn.bounds.linear.cuts import LayerCut
from certsnn.bounds.linear.intermediate import Refinement
from certsnn.bounds.linear.relaxation import RELAXATIONS, joint
from certsnn.bounds.options import BoundOptions
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Reset

REFINING = [name for name in OURS if name not in ("s-ibp", "s-crown-ibp", "branch-and-bound")]


@torch.no_grad()
def test_the_rounding_of_every_layer_is_counted_in_the_cut_down_network() -> None:
    kinds: tuple[Literal["image", "spikes"], ...] = ("image", "spikes")
    for kind in kinds:
        network = random_network(3, kind)
        x0 = random_images(3) if kind == "image" else random_spikes(network, 3)
        input_set = LinfBall(0.08) if kind == "image" else random_set(3, x0)
        problem = problem_of(network, x0, network(x0).argmax(1), input_set, RIGOROUS)
        for cut in Refinement(problem, joint, BoundOptions(iterations=0)).cuts:
            assert isinstance(cut, LayerCut) and isinstance(cut.plain, Firing)
            assert cut.error is not None and (cut.error > 1e-8).all()
            assert cut.plain.error is cut.error


def alone(neuron: Neuron, weight: list[list[float]], bias: list[float], sign: float) -> SpikingNetwork:
    """One neuron; class 0 leads by ``sign`` times its rate, and 1/4."""
    layers = [dense(weight, bias), neuron, dense([[sign], [0.0]], [0.25, 0.0])]
    return SpikingNetwork(layers, 3, "membrane", "spikes").eval()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("reset", ["zero", "subtract", 0.5], ids=str)
@pytest.mark.parametrize("initial", [0.0, 0.25])
@pytest.mark.parametrize("input_set", ["flips", "box"])
@pytest.mark.parametrize("method", OURS)
def test_one_neuron_that_is_unstable_at_one_step_is_exact(
    method: str, input_set: str, initial: float, reset: Reset, sign: float
) -> None:
    """Dyadic numbers: no rounding. The neuron may or may not fire, at one of the three steps."""
    network = alone(LIF(1.0, 0.5, reset, initial=initial), [[0.5, 0.25]], [-0.125], sign)
    x0 = train([0.0, 0.0], [1.0, 1.0], [0.0, 0.0])
    box = SpikeBox(x0, train([0.0, 1.0], [1.0, 1.0], [0.0, 0.0]))
    flips = SpikeFlips(1, "add") if input_set == "flips" else box
    for bounds in layer_bounds(network, x0, flips):
        assert int((bounds.spikes.lower != bounds.spikes.upper).sum()) <= 1
    y = torch.tensor([0])
    least = least_margins(network, y, list(flips.enumerate(x0)))
    for found, tolerance in every_bound(network, x0, y, flips, method):
        # Rounding=True may leave a tie at the threshold open: there is none here.
        torch.testing.assert_close(found.double(), least, rtol=0, atol=max(tolerance, 1e-6))


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize("budget", [1, 2])
@torch.no_grad()
def test_a_flip_budget_over_time_and_space_is_exact_for_linear_membranes(
    kind: Literal["any", "add", "drop"], budget: int
) -> None:
    """A silent neuron is linear over the steps: S-CROWN's bounds are the enumerated extremes.

    S-IBP gives each step the whole budget, and leaves the last step undecided: there bounds are refined.
    """
    looser = 0
    for seed in range(40):
        torch.manual_seed(seed)
        linear = nn.Linear(3, 1).double()
        x0, flips = (torch.rand(3, 1, 3) < 0.5).double(), SpikeFlips(budget, kind)

        def network_with(threshold: float, linear: nn.Linear = linear) -> SpikingNetwork:
            layers = [linear, LIF(threshold, 0.5), nn.Linear(1, 2)]
            return SpikingNetwork(layers, 3, "membrane", "spikes").double().eval()

        (interval,) = layer_bounds(network_with(100.0), x0, flips)
        program = network_with(100.0).freeze()
        exact = torch.stack([program.traces(x)[0].membranes for x in flips.enumerate(x0)])
        threshold = float(interval.membranes.upper[-1])
        if threshold <= interval.membranes.upper[:-1].amax() + 1e-4 or threshold <= 1e-3:
            continue  # it might fire before
        network = network_with(threshold - 1e-5)
        part = problem_of(network, x0, torch.zeros(1, dtype=torch.int64), flips)
        (layer,) = layers_of(Refinement(part, joint, BoundOptions(iterations=0)).sources)
        torch.testing.assert_close(layer.membranes.lower[-1], exact[:, -1].amin(0))
        torch.testing.assert_close(layer.membranes.upper[-1], exact[:, -1].amax(0))
        looser += int(threshold > exact[:, -1].amax() + 0.01)
    assert looser > 2


@pytest.mark.parametrize("method", REFINING)
def test_a_joint_budget_certifies_what_the_budget_of_each_step_does_not(method: str) -> None:
    """One flip lifts the membrane to 1/2, in whichever step; one in each of two would make it fire."""
    for neuron in (LIF(0.75, 1.0), LIF(0.7, 0.9)):
        network = alone(neuron, [[0.5]], [0.0], -1.0)
        x0, y = torch.zeros(3, 1, 1), torch.tensor([0])
        assert certify(network, x0, y, SpikeFlips(1), "s-ibp").status == ["unknown"]
        assert certify(network, x0, y, SpikeFlips(1), method).status == ["certified"]
        assert certify(network, x0, y, SpikeFlips(2), method).status == ["unknown"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_optimised_slopes_are_exact_for_one_neuron_on_images(sign: float) -> None:
    """Current in [0.4, 0.6], threshold 1: 1 spike in 4 steps below 1/2, else 2. S-IBP: 0 to 3."""
    layers = [dense([[1.0]]), IF(1.0, "zero"), dense([[sign], [0.0]], [0.0, 0.0])]
    network = SpikingNetwork(layers, 4, "membrane").eval()
    x, y, ball = torch.tensor([[0.5]]), torch.tensor([0]), LinfBall(0.1)
    least = least_margins(network, y, [torch.tensor([[0.4]]), torch.tensor([[0.6]])])
    assert least == (0.25 if sign == 1 else -0.5)
    assert margin_bounds(network, x, y, ball, "s-ibp") < least - 0.1
    assert margin_bounds(network, x, y, ball, "alpha-s-crown") == pytest.approx(float(least), abs=1e-6)
    assert margin_bounds(network, x, y, ball, "s-crown") <= least


# Refined layers.


@pytest.mark.parametrize("relaxation", RELAXED)
@torch.no_grad()
def test_refined_layers_are_narrower(relaxation: Literal["joint", "separate"]) -> None:
    narrower = 0
    for seed in range(12):
        network = random_network(seed, "spikes").double()
        x0 = random_spikes(network, seed, 1).double()
        input_set = random_set(seed, x0)
        problem = problem_of(network, x0, network(x0).argmax(1), input_set)
        options = BoundOptions(relaxation=relaxation, iterations=0)
        layers = layers_of(Refinement(problem, RELAXATIONS[relaxation], options).sources)
        for layer, plain in zip(layers, layer_bounds(network, x0, input_set), strict=True):
            for narrow, wide in ((layer.membranes, plain.membranes), (layer.spikes, plain.spikes)):
                assert (narrow.lower >= wide.lower - 1e-9).all()
                assert (narrow.upper <= wide.upper + 1e-9).all()
            decided = layer.spikes.lower == layer.spikes.upper
            narrower += int((decided & (plain.spikes.lower != plain.spikes.upper)).sum())
    assert narrower > 5


@torch.no_grad()
def test_optimised_slopes_never_lose() -> None:
    """Neither against their start, nor by more steps, beyond what other bounds of layers before may do."""
    gained = []
    for seed in range(8):
        network = random_network(seed, "spikes")
        x0 = random_spikes(network, seed)
        problem = problem_of(network, x0, network(x0).argmax(1), random_set(seed, x0))
        start = METHODS["s-crown"](problem, BoundOptions())
        found = METHODS["alpha-s-crown"](problem, BoundOptions(iterations=4))
        assert (found >= start - 1e-5).all()
        gained.append(found - start)
    assert torch.cat(gained).amax() > 0.01
