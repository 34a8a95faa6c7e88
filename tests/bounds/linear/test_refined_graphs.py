"""S-CROWN bounds of the layers of graphs: what they see through, and what they take into account."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from odd_node import Odd
from small_networks import OURS, dense, every_bound, least_margins, problem_of, random_set, random_spikes
from torch import Tensor, nn

from certsnn.bounds import METHODS, layer_bounds
from certsnn.bounds.cascade import decide
from certsnn.bounds.interval.arithmetic import RIGOROUS, Arithmetic
from certsnn.bounds.interval.joints import Part, bounded
from certsnn.bounds.interval.layers import Source
from certsnn.bounds.interval.propagate import follow, layers_of, margins_of
from certsnn.bounds.linear import intermediate
from certsnn.bounds.linear.active_neurons import Gathered, Rows, Scattered, Selection, rows_of
from certsnn.bounds.linear.backward import Chain, Constant
from certsnn.bounds.linear.cuts import JointCut, LayerCut
from certsnn.bounds.linear.intermediate import Refinement, sample_sizes
from certsnn.bounds.linear.levels import Adding
from certsnn.bounds.linear.margins import interval_bounds
from certsnn.bounds.linear.relaxation import joint
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.graph import Branches, Graph, Residual
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.program import Link, Stage

REFINING = ("s-crown", "alpha-s-crown")
PLAINLY = BoundOptions(iterations=0)
SIZE = 6


def random_residual(seed: int, kind: Literal["image", "spikes"] = "spikes") -> SpikingNetwork:
    """Two blocks with shortcuts on spikes or currents, or branches; many spikes are undecided."""
    draw = random.Random(seed)
    torch.manual_seed(seed)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        layer.bias.data = 0.2 * (torch.rand(outputs) - 0.3)
        return layer

    threshold = draw.choice([0.25, 0.4])
    neuron = draw.choice(
        [lambda: LIF(threshold, 0.5), lambda: LIF(threshold, 0.9, "subtract"), lambda: IF(threshold)]
    )
    layers: list[nn.Module] = [linear(4, SIZE), neuron()]
    for _ in range(2):
        way = draw.choice(["spikes", "currents", "projected", "branches"])
        if way == "spikes":
            layers += [Residual([linear(SIZE, SIZE), neuron()])]
        elif way == "currents":
            layers += [linear(SIZE, SIZE), Residual([neuron(), linear(SIZE, SIZE)]), neuron()]
        elif way == "projected":
            layers += [Residual([linear(SIZE, SIZE)], linear(SIZE, SIZE)), neuron()]
        else:
            layers += [Branches([linear(SIZE, 3), neuron()], [linear(SIZE, 3)]), linear(6, SIZE), neuron()]
    return SpikingNetwork([*layers, linear(SIZE, 3)], draw.choice([3, 4]), "membrane", kind).eval()


@torch.no_grad()
def test_refined_layers_and_margins_of_residual_networks_are_never_looser_and_tighter_on_average() -> None:
    gained, narrower, total = 0.0, 0, 0
    for seed in range(100):
        network = random_residual(seed)
        x0 = random_spikes(network, seed, 1)
        input_set, y = random_set(seed, x0), network(x0).argmax(1)
        problem = problem_of(network, x0, y, input_set, RIGOROUS)
        found, sources = interval_bounds(problem)
        refined = Refinement(problem, joint, PLAINLY)
        for layer, plain in zip(layers_of(refined.sources), layers_of(sources), strict=True):
            for narrow, wide in ((layer.membranes, plain.membranes), (layer.spikes, plain.spikes)):
                assert (narrow.lower >= wide.lower).all() and (narrow.upper <= wide.upper).all()
            open_before, open_now = (one.spikes.lower != one.spikes.upper for one in (plain, layer))
            narrower, total = narrower + int((open_before & ~open_now).sum()), total + int(open_before.sum())
        for number, node in enumerate(problem.program.nodes, 1):
            if not isinstance(node, Stage):
                known = follow(node, refined.sources, problem).box()
                assert all(map(torch.equal, refined.sources[number].box(), known))
        assert (margins_of(problem, refined.sources) >= found).all()
        better = torch.maximum(found, refined.margins())
        gained += float((better - found).mean()) / 100
    assert narrower > total / 20
    assert gained > 0.01


@pytest.mark.parametrize("way", ["sum", "concatenation", "sum of a sum"])
@pytest.mark.parametrize("neuron", [LIF(0.5, 0.5), IF(0.5)], ids=["LIF", "IF"])
@torch.no_grad()
def test_spikes_that_cancel_over_two_paths_are_seen_through(way: str, neuron: LIF | IF) -> None:
    """W s - W s: what is left to the last layer is its bias, and its spikes are known."""
    torch.manual_seed(0)
    weight = torch.randn(3, 3).tolist()
    negated, bias = [[-value for value in row] for row in weight], [0.2, 0.3, -0.4]
    both = torch.cat([torch.tensor(negated), torch.eye(3)], 1).tolist()
    cancelled = Residual(dense(weight), dense(negated, bias))
    bodies: dict[str, list[nn.Module]] = {
        "sum": [cancelled],
        "concatenation": [Branches([], [dense(weight)]), dense(both, bias)],
        "sum of a sum": [Residual([]), cancelled],
    }
    layers = [
        dense(torch.eye(3).tolist()),
        neuron,
        *bodies[way],
        neuron,
        dense([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
    ]
    network = SpikingNetwork(layers, 4, "membrane", "spikes").eval()
    x0 = (torch.rand(4, 1, 3) < 0.5).float()
    box = SpikeBox(torch.zeros_like(x0), torch.ones_like(x0))
    problem = problem_of(network, x0, torch.zeros(1, dtype=torch.int64), box, RIGOROUS)
    layer = layers_of(Refinement(problem, joint, PLAINLY).sources)[-1]
    executed = network.freeze().traces(x0)[-1]
    assert torch.equal(layer.spikes.lower, executed.spikes) and torch.equal(
        layer.spikes.upper, executed.spikes
    )
    plain = layer_bounds(network, x0, box)[-1]
    assert (plain.spikes.lower != plain.spikes.upper).any()


@pytest.mark.parametrize("way", ["projected", "twice", "identity"])
@pytest.mark.parametrize("t", [0, 1, 2])
@torch.no_grad()
def test_a_sum_of_the_input_has_exact_bounds_at_every_step(way: str, t: int) -> None:
    """Membranes are linear up to the first spike: bounds by backward passes are the enumerated extremes.

    Bits are free at some steps alone, and the last one at none: there it is 0, 1, 1. With the threshold a
    little below S-IBP's bound at step t the neuron is undecided there, and silent before.
    """
    first, second = dense([[1.0, -0.5, 0.25, 0.5]], [0.125]), dense([[-0.75, 0.5, 0.5, -0.25]], [0.0])
    free = torch.tensor([[[0.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0, 0.0]], [[1.0, 1.0, 1.0, 0.0]]])
    x0 = torch.tensor([[[0.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 1.0]], [[1.0, 0.0, 0.0, 1.0]]])
    box = SpikeBox(x0 * (1 - free), torch.maximum(x0, free))
    joints: dict[str, list[nn.Module]] = {
        "projected": [Residual(first, second)],
        "twice": [Residual([]), Residual(first, second)],
        "identity": [Residual([]), first],
    }

    def network_with(threshold: float) -> SpikingNetwork:
        layers = [*joints[way], LIF(threshold, 0.5), dense([[1.0], [0.0]])]
        return SpikingNetwork(layers, 3, "membrane", "spikes").eval()

    program = network_with(100.0).freeze()
    exact = torch.stack([program.traces(x)[0].membranes[t] for x in box.enumerate(x0)])
    (silent,) = layer_bounds(network_with(100.0), x0, box)
    threshold = float(silent.membranes.upper[t]) - 2.0**-10
    assert (silent.membranes.upper[:t] < threshold).all()
    problem = problem_of(network_with(threshold), x0, torch.zeros(1, dtype=torch.int64), box)
    (layer,) = layers_of(Refinement(problem, joint, PLAINLY).sources)
    torch.testing.assert_close(layer.membranes.lower[t], exact.amin(0))
    torch.testing.assert_close(layer.membranes.upper[t], exact.amax(0))
    assert way == "identity" or (exact.amax(0) < threshold).all()


@torch.no_grad()
def test_the_rounding_of_sums_is_counted_in_the_cut_down_network() -> None:
    for seed in range(20):
        network = random_residual(seed)
        x0 = random_spikes(network, seed)
        problem = problem_of(network, x0, network(x0).argmax(1), random_set(seed, x0), RIGOROUS)
        for cut in Refinement(problem, joint, PLAINLY).cuts:
            if isinstance(cut, JointCut) and isinstance(cut.level, Scattered):
                level = cut.level.level
                if isinstance(level, Adding):
                    assert level.error is not None and (level.error > 0).all()


@pytest.mark.parametrize("method", OURS)
def test_a_readout_of_the_input_itself_is_bounded_for_all_steps(method: str) -> None:
    """A layer that nothing takes, and a readout of an image: its value counts at every step."""
    torch.manual_seed(0)
    nodes: dict[str, tuple[nn.Module, Sequence[str]]] = {
        "dead": (nn.Sequential(nn.Linear(4, 3), LIF(0.5, 0.5)), ["input"]),
        "sum": (nn.Linear(4, 3), ["input"]),
    }
    for layers in ([Graph(nodes)], [Graph(nodes), Residual([]), nn.Linear(3, 3)]):
        network = SpikingNetwork(layers, 4, "membrane", "image").eval()
        x = torch.rand(3, 4)
        with torch.no_grad():
            y = network(x).argmax(1)
            x0, ball = LinfBall(0.25).bind(x, torch.arange(3))
            corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
            low, high = ball.box(x0)
            least = least_margins(network, y, [low + (high - low) * corner for corner in corners])
        for found, tolerance in every_bound(network, x0, y, ball, method):
            assert (found <= least + tolerance).all()


def test_slopes_of_a_branch_that_a_bound_does_not_reach_are_left_alone() -> None:
    """The second branch begins at the input: the first one's neurons have no part in its layers.

    In the count domain slopes are optimised for all undecided neurons.
    """
    torch.manual_seed(1)
    wide = nn.Linear(4, 4)
    deeper = [nn.Linear(3, 4), IF(0.25), wide, IF(0.25)]
    layers = [Branches([nn.Linear(3, 4), IF(0.25)], deeper), nn.Linear(8, 2)]
    wide.weight.data *= 3  # its neurons are undecided
    network = SpikingNetwork(layers, 3, "membrane", "spikes").eval()
    x0 = (torch.rand(3, 2, 3) < 0.5).float()
    y, flips = network(x0).argmax(1), SpikeFlips(1)
    with torch.no_grad():
        least = least_margins(network, y, list(flips.enumerate(x0)))
    for found, tolerance in every_bound(network, x0, y, flips, "alpha-s-crown"):
        assert (found <= least + tolerance).all()


@torch.no_grad()
def test_the_matrices_of_a_sample_take_no_more_than_its_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Rows] = []

    def noted(chain: Chain, neurons: Tensor, inputs: Selection) -> Rows:
        made.append(rows_of(chain, neurons, inputs))
        return made[-1]

    monkeypatch.setattr(intermediate, "rows_of", noted)
    kinds: tuple[Literal["image", "spikes"], ...] = ("image", "spikes")
    for seed, kind in ((seed, kind) for seed in range(20) for kind in kinds):
        network = random_residual(seed, kind)
        x0 = torch.rand(1, 4) if kind == "image" else random_spikes(network, seed, 1)
        input_set = LinfBall(0.1).bind(x0, torch.arange(1))[1] if kind == "image" else random_set(seed, x0)
        problem = problem_of(network, x0, network(x0).argmax(1), input_set, RIGOROUS)
        (size,) = sample_sizes(problem, interval_bounds(problem)[1]).tolist()
        made.clear()
        taken = 0
        for cut in Refinement(problem, joint, PLAINLY).cuts:
            if isinstance(cut, LayerCut):
                coupling = cut.coupling.coupling if isinstance(cut.coupling, Constant) else cut.coupling
                assert isinstance(coupling, Gathered)
                taken += coupling.matrix.nbytes
        taken += sum(rows.matrix.nbytes for rows in made)
        # Each layer keeps one row and one column at least.
        assert taken <= size + 8 * len(made) * 64


@bounded.register
def _(node: Odd, parts: Sequence[Part], arithmetic: Arithmetic, executed: torch.dtype) -> Source:
    return parts[0].source


def odd_problem() -> Problem:
    """A network whose readout takes such a node."""
    network = SpikingNetwork(
        [nn.Linear(3, 4), LIF(0.25, 0.5), nn.Linear(4, 2)], 3, "membrane", "spikes"
    ).eval()
    x0 = (torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    y = network(x0).argmax(1)
    problem = problem_of(network, x0, y, SpikeFlips(3).bind(x0, torch.arange(2))[1])
    program = problem.program
    nodes = (*program.nodes, Odd((Link(1, ()),), "the odd one"))
    return replace(problem, program=replace(program, nodes=nodes, readout=replace(program.readout, source=2)))


@pytest.mark.parametrize("method", ["s-crown-ibp", *REFINING])
def test_a_node_without_backward_pass_is_refused_by_name(method: str) -> None:
    with pytest.raises(TypeError, match=r"no backward pass for Odd \(the odd one\); use s-ibp"):
        METHODS[method](odd_problem(), PLAINLY)


def test_auto_leaves_out_what_does_not_suit_a_network() -> None:
    problem = odd_problem()
    verdict = decide(problem, METHODS["auto"].stages, BoundOptions())
    s_ibp = METHODS["s-ibp"](problem, PLAINLY)
    assert torch.equal(verdict.margins, s_ibp)
    assert torch.equal(METHODS["auto"](problem, PLAINLY), s_ibp)
