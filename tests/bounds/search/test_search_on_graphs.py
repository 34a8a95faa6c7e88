"""Branch and bound on graphs: sums and concatenations are affine functions of the counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from search_cases import Case, cases, check_executed
from soundness import bound, check_method, members, outcome, problem_of
from strategies import Example, examples
from torch import Tensor, nn

from certsnn.bounds import METHODS, certify, margin_bounds
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.search.branch_and_bound import PROVED, proved_margins
from certsnn.filters import Synapse
from certsnn.graph import Branches, Residual
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.recurrence import Recurrent


@pytest.mark.parametrize("way", ["image", "box", "flips", "shifts"])
@settings(max_examples=30)
@given(data=st.data())
@torch.no_grad()
def test_what_is_executed_fulfils_the_constraints(way: str, data: st.DataObject) -> None:
    case = data.draw(cases((way,), graphs=True))
    check_executed(case, case.members(6)[:12])


@settings(max_examples=20)
@given(cases(("image",), graphs=True))
@torch.no_grad()
def test_held_sums_with_too_many_trains(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", 0)
        check_executed(case, case.members(6))


@settings(max_examples=80)
@given(cases(("box", "flips"), ("smooth",), graphs=True))
@torch.no_grad()
def test_on_spikes_every_margin_that_all_members_keep_is_proved(case: Case) -> None:
    problem = case.problem()
    margins, _ = case.run(case.members(0))
    assume(case.clear(case.members(0)) and not ((margins.abs() < 1e-4) & (margins != 0)).any())
    found = certify(case.network, case.x, problem.y, case.threat, "branch-and-bound")
    assert bool(found.certified) == bool((margins > 0).all())


def conserving(example: Example) -> Example:
    """The example as the search takes it: IF neurons of the same thresholds, no filters, means over time."""
    network = example.network
    layers = [_conserving(layer) for layer in network.layers]
    readout: Literal["rate", "membrane"] = "rate" if network.readout == "rate" else "membrane"
    changed = SpikingNetwork(layers, network.steps, readout, example.threat.network_input).eval()
    return replace(example, network=changed)


def _conserving(layer: nn.Module) -> nn.Module:
    if isinstance(layer, Synapse):
        return nn.Identity()
    if isinstance(layer, Recurrent):
        return _conserving(layer.neuron)
    if isinstance(layer, Neuron):
        dynamics = layer.dynamics()
        return IF(dynamics.threshold.detach(), initial=dynamics.initial.detach())
    for name, child in layer.named_children():
        setattr(layer, name, _conserving(child))
    return layer


@settings(max_examples=40)
@given(examples(graphs=True, most=2))
def test_random_graphs_of_charge_conserving_neurons(example: Example) -> None:
    case = bound(conserving(example))
    assume(METHODS["branch-and-bound"].suits(problem_of(case, PLAIN)))  # no filters, readouts that are means
    check_method(case, outcome(case, list(members(case))), "branch-and-bound", "joint")


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_no_margin_of_a_tiny_residual_network_is_proved_that_a_train_loses(seed: int) -> None:
    """All 64 spike trains; numbers with few bits, so that thresholds are met exactly through sums."""
    generator = torch.Generator().manual_seed(seed)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        for parameter in layer.parameters():
            parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator) / 8
        return layer

    body = Residual([linear(2, 2), IF(0.5)], linear(2, 2))
    layers = [linear(2, 2), IF(0.5), body, Branches([linear(2, 1), IF(0.5)], []), linear(3, 2)]
    network = SpikingNetwork(layers, 3, "membrane", "spikes").eval()
    rows = torch.tensor(list(product((0.0, 1.0), repeat=6)))
    every = rows.view(-1, 3, 2).movedim(1, 0)
    logits = network(every)
    for sample in range(0, 64, 7):
        x, y = every[:, sample : sample + 1], logits[sample : sample + 1].argmax(1)
        for budget in (1, 2):
            near = (every - x).abs().sum((0, 2)) <= budget
            least = (logits[near, y] - logits[near, 1 - y]).min()
            verdict = certify(network, x, y, SpikeFlips(budget), "branch-and-bound")
            assert float(verdict.margins) <= float(least)


def identity(scale: float, size: int = 1) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False)
    layer.weight.data = scale * torch.eye(size)
    return layer


def cancelling(seed: int) -> Residual:
    """Thirteen inputs times up to 1000, which nearly cancel, as the first term of a sum."""
    generator = torch.Generator().manual_seed(seed)
    half, rest = 1000 * torch.rand(6, generator=generator), torch.rand(7, generator=generator)
    large, nothing = nn.Linear(13, 1, bias=False), nn.Linear(13, 1, bias=False)
    large.weight.data = torch.cat([half, -half + rest[:6], rest[6:]])[None]
    nothing.weight.data.zero_()
    return Residual(large, nothing)


def one_free(size: int = 13) -> tuple[Tensor, SpikeBox]:
    """A step of spikes everywhere, of which the last may be missing."""
    x = torch.ones(1, 1, size)
    free = torch.zeros_like(x)
    free[..., -1] = 1
    return x, SpikeBox(x - free, x)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("joint", ["sum", "sum of a sum", "concatenation"])
@torch.no_grad()
def test_rounding_before_a_sum_reaches_the_neurons_after_it(seed: int, joint: str) -> None:
    """The threshold is met exactly as executed; computed exactly, the sum is a little off it."""
    x, box = one_free()
    first = cancelling(seed)
    body: list[nn.Module] = [Branches(first.body)] if joint == "concatenation" else [first]
    if joint == "sum of a sum":
        body.append(Residual(identity(1.0), identity(0.0)))
    current = float(SpikingNetwork([*body, IF(1.0)], 1, "rate", "spikes").eval().freeze().values(x)[-2])
    network = SpikingNetwork([*body, IF(current)], 1, "rate", "spikes").eval()
    check_executed(Case(network, box, x), x)


@torch.no_grad()
def test_rounding_before_a_sum_adds_up_over_time() -> None:
    """A current of 1 is lost in each of 32 steps, while a step alone may lose about 10."""
    large, nothing = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
    large.weight.data = torch.tensor([[2.0**24, 1.0, -(2.0**24), 8.0]])
    nothing.weight.data.zero_()
    x = torch.ones(32, 1, 4)
    x[:-1, :, 3] = 0
    free = torch.zeros_like(x)
    free[-1, :, 3] = 1
    network = SpikingNetwork([Residual(large, nothing), IF(8.0)], 32, "rate", "spikes").eval()
    check_executed(Case(network, SpikeBox(x - free, x), x), x[:, 0][None])


@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_rounding_before_a_sum_reaches_the_margin(seed: int) -> None:
    """Without the free spike the classes tie as executed; computed exactly, the margin may be positive."""
    x, box = one_free()
    last = nn.Linear(1, 2)
    last.weight.copy_(torch.tensor([[1.0], [0.0]]))
    network = SpikingNetwork([identity(1.0, 13), IF(0.5), cancelling(seed), last], 1, "membrane", "spikes")
    last.bias.copy_(torch.tensor([0.0, float(network.eval().freeze().values(box.lower)[-1])]))
    assert certify(network, x, torch.tensor([0]), box, "branch-and-bound").status == ["unknown"]


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.1])
@torch.no_grad()
def test_rounding_of_a_sum_of_two_paths_is_covered(threshold: float) -> None:
    """0.1 + 0.2 is not 0.3 in float32, 16 times over: the count that is executed stays possible."""
    first = nn.Linear(1, 2, bias=False)
    first.weight.data = torch.tensor([[0.1], [0.2]])
    one, other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    one.weight.data, other.weight.data = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    network = SpikingNetwork([first, Residual(one, other), IF(threshold)], 16).eval()
    x = torch.linspace(0.9, 1.1, 41)[:, None]
    check_executed(Case(network, LinfBall(0.2, low=None, high=None), x[:1] * 0 + 1), x)
    near = torch.nextafter(x.new_tensor(1.0), x.new_tensor(2.0)).view(1, 1)
    check_executed(Case(network, LinfBall(0.2, low=None, high=None), near), near)


@pytest.mark.parametrize("neuron", [IF(1.0, initial=0.5), LIF(1.0, 0.5)])
def test_it_proves_of_a_residual_network_what_intervals_do_not(neuron: Neuron) -> None:
    """s - s through a shortcut is 0; a network with leak is left as it is."""
    last = identity(1.0, 2)
    last.bias = nn.Parameter(torch.tensor([0.125, 0.0]))
    network = SpikingNetwork(
        [identity(1.0, 2), neuron, Residual(identity(1.0, 2), identity(-1.0, 2)), last], 4, "membrane"
    ).eval()
    x, y, ball = torch.tensor([[0.5, 0.5]]), torch.tensor([0]), LinfBall(0.3)
    assert margin_bounds(network, x, y, ball) < -0.2
    found = margin_bounds(network, x, y, ball, "branch-and-bound")
    if isinstance(neuron, LIF):
        assert torch.equal(found, margin_bounds(network, x, y, ball))
    else:
        assert float(found.detach()) == PROVED
        last.bias = nn.Parameter(torch.tensor([0.0, 0.0]))  # a tie everywhere
        assert certify(network, x, y, ball, "branch-and-bound").status == ["unknown"]


@torch.no_grad()
def test_a_sum_that_two_neurons_see_is_one_sum() -> None:
    """Counts 0 to 2 of a shortcut on spikes reach both logits, so that they exclude each other."""
    last = nn.Linear(1, 2)
    last.weight.copy_(torch.tensor([[1.0], [0.5]]))
    last.bias.copy_(torch.tensor([0.125, 0.0]))
    shortcut = Residual([identity(0.75), IF(0.5)])
    network = SpikingNetwork([identity(1.0), IF(1.0, initial=0.5), shortcut, last], 4, "membrane").eval()
    x, y, ball = torch.tensor([[0.5]]), torch.tensor([0]), LinfBall(0.4)
    assert certify(network, x, y, ball, "branch-and-bound").certified


@torch.no_grad()
def test_a_readout_of_what_stays_the_same_counts_once() -> None:
    """Neurons that lead nowhere, and a margin x - 0.2 (or x + 0.2) of the pixel itself, over four steps."""
    for bias, certified in ((-0.2, False), (0.2, True)):
        out = nn.Linear(1, 2)
        out.weight.copy_(torch.tensor([[1.0], [0.0]]))
        out.bias.copy_(torch.tensor([bias, 0.0]))
        nodes: dict[str, tuple[nn.Module, list[str]]] = {
            "first": (identity(1.0), ["input"]),
            "neurons": (IF(1.0), ["first"]),
            "out": (out, ["first"]),
        }
        network = SpikingNetwork.from_graph(nodes, 4, "membrane").eval()
        x, y = torch.tensor([[0.3]]), torch.tensor([0])
        problem = Case(network, LinfBall(0.2), x).problem()
        found = proved_margins(problem, torch.tensor([[-1.0]], dtype=torch.float64), BoundOptions())
        assert float(found) == (PROVED if certified else -1.0)
        assert bool(certify(network, x, y, LinfBall(0.2), "branch-and-bound").certified) == certified


@torch.no_grad()
def test_max_pooling_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), IF(0.4), nn.Flatten(), nn.Linear(8, 3)]
    network, x = SpikingNetwork(layers, 3, "membrane").eval(), torch.rand(2, 1, 6, 6)
    y, ball = network(x).argmax(1), LinfBall(0.2)
    found = margin_bounds(network, x, y, ball, "branch-and-bound")
    assert torch.equal(found, margin_bounds(network, x, y, ball))
