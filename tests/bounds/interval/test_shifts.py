"""Spikes moved in time: the set by its definition, all bounds on every member, and the attack."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soundness import FURTHER, RELAXED, bound, check_members, check_method, outcome, weight_only
from strategies import Example, examples
from torch import Tensor, nn

from certsnn.attacks import ExhaustiveFlips, GreedyShifts
from certsnn.bounds import margin_bounds
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.interval.shifts import ShiftedSpikes
from certsnn.bounds.interval.topk import Ranking, any_weights, feasible_flips
from certsnn.inputsets import SpikeFlips, SpikeShift
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF

EVERY = 300
"""Members of a sample that are all checked; examples with more are checked on so many."""


def trains(steps: int) -> Tensor:
    """All trains of one pixel, [T, 2**T, 1]."""
    return torch.tensor(list(product((0.0, 1.0), repeat=steps))).T[..., None]


def least_moves(before: Tensor, after: Tensor, max_shift: int) -> float:
    """By trying all ways to keep spikes in place; the others are matched in their order."""
    one, other = (set(x.nonzero().flatten().tolist()) for x in (before, after))
    if len(one) != len(other):
        return float("inf")
    both = sorted(one & other)
    for kept in range(len(both), -1, -1):
        for still in combinations(both, kept):
            pairs = zip(sorted(one - set(still)), sorted(other - set(still)), strict=True)
            if all(abs(a - b) <= max_shift for a, b in pairs):
                return len(one) - kept
    return float("inf")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6])
def test_membership_of_all_pairs_of_trains(steps: int) -> None:
    every = trains(steps)
    for before, max_shift in product(every.movedim(1, 0), (0, 1, 2, 5, 9)):
        x0 = before[:, None].expand(-1, 2**steps, -1)
        least = torch.tensor([least_moves(before[:, 0], x[:, 0], max_shift) for x in every.movedim(1, 0)])
        for moved in range(4):
            inside = SpikeShift(max_shift, moved).contains(x0, every)
            assert torch.equal(inside, least <= moved)


@pytest.mark.parametrize("ranking", [feasible_flips, any_weights], ids=["feasible", "any"])
@pytest.mark.parametrize("arithmetic", [PLAIN, RIGOROUS], ids=["plain", "rigorous"])
def test_currents_of_every_member_of_every_train(ranking: Ranking, arithmetic: Arithmetic) -> None:
    """Two pixels, all trains of four steps, all weights of a grid, all members: nothing leaves its bounds."""
    every = trains(4)[..., 0]
    pair = torch.stack([every[:, n] for n in range(16)], dim=1)
    x0 = torch.stack([pair.repeat_interleave(16, dim=1), pair.repeat(1, 16)], dim=2)  # [4, 256, 2]
    weight = torch.tensor(list(product((-1.0, 0.5, 2.0), repeat=2)))
    linear = nn.Linear(2, len(weight), bias=False)
    linear.weight.data = weight
    program = SpikingNetwork([linear, IF(), nn.Linear(9, 2)], 4, "membrane", "spikes").freeze()
    for shift in (SpikeShift(1, 1), SpikeShift(1, 3), SpikeShift(2, 2), SpikeShift(3, 8)):
        source = ShiftedSpikes(x0, shift, ranking)
        operators = program.stages[0].link.operators
        bounds = [source.currents(operators, arithmetic), source.charge(operators, arithmetic).sums]
        least, most = (torch.full((2, 4, 256, 9), sign * 99.0) for sign in (1, -1))
        for x in shift.enumerate(x0):
            current = x @ weight.T
            values = torch.stack([current, current.cumsum(0)])
            least, most = torch.minimum(least, values), torch.maximum(most, values)
        for (low, high), inner, outer in zip(bounds, least, most, strict=True):
            assert (low <= inner).all() and (high >= outer).all()
        if ranking is feasible_flips:
            # Of one move nothing is lost at single steps, and moves never change what there is in the end.
            if shift.moved == 1:
                torch.testing.assert_close(bounds[0][0].float(), least[0], rtol=0, atol=1e-5)
                torch.testing.assert_close(bounds[0][1].float(), most[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(bounds[1][0][-1].float(), least[1, -1], rtol=0, atol=1e-5)


def some(example: Example) -> list[Tensor]:
    """Members of an example of shifts: all of them, where there are few enough."""
    case_set = example.threat
    assert isinstance(case_set, SpikeShift)
    generator = torch.Generator().manual_seed(example.seed)
    try:
        found = [x for x, _ in zip(case_set.enumerate(example.x), range(EVERY), strict=False)]
    except ValueError:
        found = []
    return [example.x, *found, *(case_set.sample(example.x, generator) for _ in range(60))]


@settings(max_examples=60)
@given(examples(ways=("shifts",)))
def test_every_member_lies_within_the_bounds(example: Example) -> None:
    case, xs = bound(example), some(example)
    check_members(case, xs)
    check_members(weight_only(case), xs)


@pytest.mark.parametrize("method", FURTHER)
@settings(max_examples=15)
@given(example=examples(ways=("shifts",)), relaxation=st.sampled_from(RELAXED))
def test_every_method_is_sound_on_every_member(method: str, example: Example, relaxation: str) -> None:
    case = bound(example)
    check_method(case, outcome(case, some(example)), method, relaxation)  # type: ignore[arg-type]


def tiny(seed: int, neuron: nn.Module) -> SpikingNetwork:
    torch.manual_seed(seed)
    network = SpikingNetwork([nn.Linear(3, 6), neuron, nn.Linear(6, 3)], 5, "membrane", "spikes")
    with torch.no_grad():
        for layer in network.layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3)
    return network.eval()


def batch_of(network: SpikingNetwork, size: int, seed: int) -> tuple[Tensor, Tensor]:
    x = (torch.rand(5, size, 3, generator=torch.Generator().manual_seed(seed)) < 0.4).float()
    return x, network(x).argmax(1)


@pytest.mark.parametrize(("max_shift", "moved"), [(1, 1), (1, 2), (2, 2)])
def test_greedy_finds_what_exhaustive_finds(max_shift: int, moved: int) -> None:
    found = there = 0
    shift = SpikeShift(max_shift, moved)
    for seed in range(4):
        network = tiny(seed, LIF(0.5, 0.8) if seed % 2 else IF(0.5))
        x, y = batch_of(network, 20, seed)
        exact = ExhaustiveFlips()(network, x, y, shift).success
        greedy = GreedyShifts()(network, x, y, shift).success
        assert not (greedy & ~exact).any()
        found, there = found + int(greedy.sum()), there + int(exact.sum())
    assert there > 8 and found >= 0.9 * there


def test_greedy_shifts_move_spikes_within_a_budget_of_flips_too() -> None:
    network = tiny(1, IF(0.5))
    x, y = batch_of(network, 60, 3)
    result = GreedyShifts()(network, x, y, SpikeFlips(2))
    assert result.success.any()
    assert torch.equal(result.adversarial.sum((0, 2)), x.sum((0, 2)))


def test_bounds_of_shifts_are_within_those_of_twice_as_many_flips() -> None:
    network = tiny(4, IF(0.5))
    x, y = batch_of(network, 40, 3)
    for method in ("s-ibp", "s-crown-ibp"):
        shift = margin_bounds(network, x, y, SpikeShift(1, 1), method=method)
        assert (shift >= margin_bounds(network, x, y, SpikeFlips(2), method=method) - 1e-6).all()
