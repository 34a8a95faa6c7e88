"""The attack of the cascade: what it breaks is broken, and takes nothing away from what is certified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from certsnn.attacks.base import AttackResult
from certsnn.attacks.greedy import GreedyFlips
from certsnn.attacks.oracle import activation_bytes
from certsnn.bounds import METHODS, bind, certify
from certsnn.bounds.attack import broken_by_attack
from certsnn.bounds.cascade import Verdict, decide
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.memory import TEMPORARIES, OverBudget
from certsnn.bounds.methods import AlphaSCrown, Auto, BranchAndBound
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, SpikeShift, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.program import Program, strictly_correct

THREATS = [
    LinfBall(0.08),
    CoupledBernoulli(0.05, 4),
    SpikeFlips(1),
    SpikeShift(1, 1),
    FreeSpikes(0.05),
]
SEED = 21
LINEAR = Auto([METHODS[name] for name in ("s-ibp", "s-crown-ibp", "s-crown")])
"""Auto without its slowest methods."""


def example(
    threat: Threat, neuron: Callable[[float], Neuron] = LIF, samples: int = 16
) -> tuple[SpikingNetwork, Problem]:
    torch.manual_seed(SEED)
    linear = [nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)]
    for layer in linear:
        nn.init.normal_(layer.weight)
    layers = [linear[0], neuron(0.5), linear[1], neuron(0.5), linear[2]]
    network = SpikingNetwork(layers, 4, "membrane", threat.network_input).eval()
    x = torch.rand(samples, 8)
    x = x if threat.domain == "image" else (torch.rand(4, samples, 8) < x).float()
    x0, input_set = bind(network, x, threat, None)
    with torch.no_grad():
        y = network(x0).argmax(1)
    return network, pose(network.freeze(), x0, y, input_set, RIGOROUS)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_what_is_broken_is_really_broken_and_the_rest_as_without_the_attack(threat: Threat) -> None:
    network, problem = example(threat)
    with_attack = decide(problem, LINEAR.stages, BoundOptions(), LINEAR.attack)
    without = decide(problem, LINEAR.stages, BoundOptions())
    assert {"certified", "broken"} <= set(with_attack.status), "the example shows nothing"
    assert torch.equal(with_attack.certified, without.certified)
    _check(network, problem, with_attack)
    rest = ~with_attack.broken
    torch.testing.assert_close(with_attack.margins[rest], without.margins[rest])


@torch.no_grad()
def _check(network: SpikingNetwork, problem: Problem, verdict: Verdict) -> None:
    """Assert that members of the input set break what is broken, and that the others have their x0."""
    inside = problem.input_set.contains(problem.x0, verdict.adversarial)
    assert inside.all()
    right = strictly_correct(network(verdict.adversarial), problem.y)
    assert torch.equal(right, ~verdict.broken | right)
    assert not right[verdict.broken].any()
    assert not (verdict.margins[verdict.broken] > 0).all(1).any()
    axis = network.input.batch_axis
    moved = (verdict.adversarial != problem.x0).movedim(axis, 0).flatten(1).any(1)
    assert torch.equal(moved, verdict.broken), "x0 is right, so what breaks a sample is another input"


def test_the_same_again() -> None:
    _, problem = example(LinfBall(0.08))
    one, other = (broken_by_attack(problem, BoundOptions()) for _ in range(2))
    assert torch.equal(one.members, other.members)


def test_it_works_in_pieces_inside_the_memory() -> None:
    _, problem = example(SpikeFlips(1))
    whole = broken_by_attack(problem, BoundOptions())
    pieces = broken_by_attack(problem, BoundOptions(memory=2**13))
    assert torch.equal(whole.found, pieces.found) and torch.equal(whole.members, pieces.members)
    with pytest.raises(OverBudget):
        broken_by_attack(problem, BoundOptions(memory=2**8))


def test_no_piece_is_larger_than_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    _, problem = example(SpikeFlips(1))
    sizes, run = [], GreedyFlips.run

    def recorded(self: GreedyFlips, program: Program, x0: Tensor, *rest: Any) -> AttackResult:
        sizes.append(x0.shape[1])
        return run(self, program, x0, *rest)

    monkeypatch.setattr(GreedyFlips, "run", recorded)
    one = activation_bytes(problem.program, problem.x0[:, :1])
    for memory in (5 * TEMPORARIES * one, 100 * TEMPORARIES * one):
        broken_by_attack(problem, BoundOptions(memory=memory))
    assert sizes == [5, 5, 5, 1, 16]


def test_it_ends_at_the_deadline() -> None:
    _, problem = example(LinfBall(0.08))
    assert broken_by_attack(problem, BoundOptions()).found.any()
    late = broken_by_attack(problem, BoundOptions(deadline=-math.inf))
    assert not late.found.any()
    assert torch.equal(late.members, problem.x0)


def test_search_is_for_networks_that_conserve_charge_and_slopes_for_the_others() -> None:
    for neuron, counted in ((IF, True), (LIF, False)):
        _, problem = example(LinfBall(0.08), neuron)
        assert (BranchAndBound().gains(problem), AlphaSCrown().gains(problem)) == (counted, not counted)


@pytest.mark.parametrize(("neuron", "last"), [(IF, "branch-and-bound"), (LIF, "alpha-s-crown")])
def test_the_last_stage_is_the_one_that_suits(neuron: type[Neuron], last: str) -> None:
    network, problem = example(LinfBall(0.05), neuron, 32)
    verdict = certify(network, problem.x0, problem.y, LinfBall(0.05), "auto", iterations=1)
    left = {stage for stage, word in zip(verdict.stage, verdict.status, strict=True) if word == "unknown"}
    assert left == {last}


def test_a_single_method_is_attacked_by_nothing() -> None:
    network, problem = example(LinfBall(0.08))
    assert not certify(network, problem.x0, problem.y, LinfBall(0.08), "s-crown").broken.any()


def test_a_misclassified_sample_is_not_attacked() -> None:
    _, problem = example(LinfBall(0.08))
    wrong = replace(problem, y=(problem.y + 1) % 3)
    assert set(decide(wrong, LINEAR.stages, BoundOptions(), LINEAR.attack).status) == {"unknown"}
