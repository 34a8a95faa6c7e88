"""Spike counts as constraints: they hold for what is executed, and a search refutes nothing else."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from search_cases import Case, cases, check_executed
from torch import nn

from certsnn.bounds import certify, margin_bounds
from certsnn.bounds.memory import OverBudget
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.search.branch_and_bound import PROVED, closed
from certsnn.bounds.search.constraints import Box, Constraints, Vector
from certsnn.data import load
from certsnn.inputsets import LinfBall, SpikeBox, Threat
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF


@settings(max_examples=50)
@given(cases())
@torch.no_grad()
def test_what_is_executed_fulfils_the_constraints(case: Case) -> None:
    check_executed(case, case.members(6)[:24])


@settings(max_examples=20)
@given(cases(("image",)))
@torch.no_grad()
def test_held_currents_with_too_many_trains_are_cumulative_currents_like_others(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", 0)
        check_executed(case, case.members(6))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("way", ["image", "spikes"])
@torch.no_grad()
def test_the_rounding_of_products_that_cancel_is_covered(way: str, seed: int) -> None:
    """The threshold is met exactly as executed; computed exactly, the current is a little off it."""
    generator = torch.Generator().manual_seed(seed)
    half = 1000 * torch.rand(6, generator=generator)
    last = nn.Linear(13, 1, bias=False)
    last.weight.copy_(
        torch.cat([half, -half + torch.rand(6, generator=generator), torch.rand(1, generator=generator)])[
            None
        ]
    )
    x = torch.ones(1, 13)
    threat: Threat = LinfBall(1e-3, low=None, high=None)
    if way == "spikes":
        free = torch.zeros(1, 1, 13)
        free[..., -1] = 1
        x = x[None]
        threat = SpikeBox(x - free, x)
    current = float(last(torch.ones(1, 13)))
    network = SpikingNetwork([last, IF(current)], 1, "rate", "image" if way == "image" else "spikes").eval()
    check_executed(Case(network, threat, x), x.reshape(1, *x.shape[1:]))


@settings(max_examples=100)
@given(cases())
@torch.no_grad()
def test_no_margin_is_proved_that_a_member_loses(case: Case) -> None:
    verdict = certify(case.network, case.x, case.problem().y, case.threat, "branch-and-bound")
    assert (case.run(case.members(200))[0] >= verdict.margins).all()


@settings(max_examples=120)
@given(cases(("box", "flips"), ("smooth",)))
@torch.no_grad()
def test_on_spikes_every_margin_that_all_members_keep_is_proved(case: Case) -> None:
    """The search is complete: S-IBP's margins are raised wherever rounding does not decide."""
    problem = case.problem()
    margins, _ = case.run(case.members(0))
    assume(case.clear(case.members(0)) and not ((margins.abs() < 1e-4) & (margins != 0)).any())
    found = certify(case.network, case.x, problem.y, case.threat, "branch-and-bound")
    assert bool(found.certified) == bool((margins > 0).all())


def test_it_proves_what_intervals_do_not() -> None:
    """Both hidden neurons see the same pixel, so the first never fires less often than the second."""
    first, last = nn.Linear(1, 2), nn.Linear(2, 2)
    network = SpikingNetwork([first, IF(1.0, initial=0.5), last], 4, "membrane").eval()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0625], [1.0]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        last.bias.copy_(torch.tensor([0.125, 0.0]))
    x, y, ball = torch.tensor([[0.5]]), torch.tensor([0]), LinfBall(0.3)
    assert margin_bounds(network, x, y, ball) < -0.2
    assert certify(network, x, y, ball, "branch-and-bound").margins == pytest.approx(PROVED)
    assert margin_bounds(network, x, y, ball, "branch-and-bound") == pytest.approx(PROVED)
    with torch.no_grad():
        last.bias.zero_()  # a tie where both fire as often
    assert certify(network, x, y, ball, "branch-and-bound").status == ["unknown"]


@torch.no_grad()
def test_a_real_digit_that_s_ibp_leaves_open_is_proved() -> None:
    model = load_model("digits-eps0.05")
    x, y, index = load("digits", "test")[range(96, 97)]
    least = {
        method: float(certify(model.network, x, y, model.config.threat, method, index=index).margins.min())
        for method in ("s-ibp", "branch-and-bound")
    }
    assert least["s-ibp"] < -0.05
    assert least["branch-and-bound"] == PROVED


def test_a_network_with_leak_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    network = SpikingNetwork([nn.Linear(3, 4), LIF(0.4), nn.Linear(4, 3)], 3, "membrane").eval()
    x = torch.rand(2, 3)
    y, ball = network(x).argmax(1), LinfBall(0.2)
    found = margin_bounds(network, x, y, ball, "branch-and-bound")
    assert torch.equal(found, margin_bounds(network, x, y, ball))


def wide(width: int = 40) -> Case:
    torch.manual_seed(3)
    layers = [nn.Linear(20, width), IF(0.3), nn.Linear(width, width), IF(0.3), nn.Linear(width, 3)]
    return Case(SpikingNetwork(layers, 4, "membrane").eval(), LinfBall(0.2), torch.rand(1, 20))


def test_too_little_memory_is_an_error_and_a_deadline_ends_the_search() -> None:
    case = wide()
    problem = case.problem()
    with pytest.raises(OverBudget, match="--memory"):
        METHODS["branch-and-bound"](problem, BoundOptions(memory=2**18))
    late = METHODS["branch-and-bound"](problem, BoundOptions(deadline=0.0))
    assert torch.equal(late, METHODS["s-ibp"](problem, BoundOptions()))


# The constraints themselves.


@st.composite
def systems(draw: st.DrawFn) -> tuple[Constraints, Box]:
    """Small systems of integers with few-bit coefficients."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    matrix = generator.integers(-3, 4, (rows, size)) / 2
    centre = generator.integers(-4, 5, rows) / 2
    lower = np.where(generator.random(rows) < 0.3, -np.inf, centre)
    upper = np.where(generator.random(rows) < 0.3, np.inf, centre + generator.integers(0, 3, rows) / 2)
    ends = generator.integers(0, 3, (2, size)).astype(np.float64)
    box = Box(-ends[0], ends[1])
    return Constraints(csr_matrix(matrix), lower, upper, np.ones(size, dtype=bool)), box


def solutions(system: Constraints, box: Box) -> Vector:
    """All integer points of the box that fulfil the rows."""
    ranges = [np.arange(low, high + 1) for low, high in zip(*box, strict=True)]
    points: Vector = np.array(list(itertools.product(*ranges)))
    values: Vector = points @ system.matrix.toarray().T
    return points[((values >= system.lower) & (values <= system.upper)).all(1)]


@settings(max_examples=300)
@given(systems())
def test_propagation_loses_no_solution(case: tuple[Constraints, Box]) -> None:
    system, box = case
    found, points = system.propagated(box), solutions(system, box)
    assert found is not None or not len(points)
    if found is not None:
        assert (found.lower >= box.lower).all() and (found.upper <= box.upper).all()
        assert (points >= found.lower).all() and (points <= found.upper).all()
        assert found.lower == pytest.approx(np.round(found.lower), abs=0)


def test_propagation_takes_the_best_of_the_other_variables() -> None:
    """By hand: 2x - y <= 1 and y - 3z >= -1, with x in 0..5, y in 0..2, z in 0..4."""
    matrix = csr_matrix(np.array([[2.0, -1.0, 0.0], [0.0, 1.0, -3.0]]))
    system = Constraints(matrix, np.array([-np.inf, -1.0]), np.array([1.0, np.inf]), np.ones(3, dtype=bool))
    found = system.propagated(Box(np.zeros(3), np.array([5.0, 2.0, 4.0])))
    assert found is not None
    assert found.lower.tolist() == [0, 0, 0] and found.upper.tolist() == [1, 2, 1]
    found = system.propagated(Box(np.array([1.0, 0.0, 1.0]), np.array([5.0, 2.0, 4.0])))
    assert found is not None
    assert found.lower.tolist() == [1, 2, 1] and found.upper.tolist() == [1, 2, 1]


@settings(max_examples=200)
@given(systems(), st.integers(0, 2**32 - 1))
def test_no_multipliers_refute_a_system_with_a_solution(case: tuple[Constraints, Box], seed: int) -> None:
    system, box = case
    program = system.least_violation(box, 10.0)
    assert program is not None
    generator = np.random.default_rng(seed)
    candidates = [program.multipliers, -program.multipliers]
    candidates += [generator.integers(-2, 3, len(system.lower)).astype(np.float64) for _ in range(20)]
    refuted = any(system.refuted(box, multipliers) for multipliers in candidates)
    assert not (refuted and len(solutions(system, box)))


@settings(max_examples=200)
@given(systems())
def test_the_linear_program_refutes_what_has_no_solution_among_the_reals(
    case: tuple[Constraints, Box],
) -> None:
    system, box = case
    program = system.least_violation(box, 10.0)
    assert program is not None
    values = system.matrix @ program.point
    violation = np.maximum(system.lower - values, 0) + np.maximum(values - system.upper, 0)
    assert system.refuted(box, program.multipliers) == (violation.sum() > 1e-6)


@settings(max_examples=200)
@given(systems())
def test_the_search_decides_integer_systems(case: tuple[Constraints, Box]) -> None:
    system, box = case
    start = system.propagated(box)
    assume(start is not None)
    assert start is not None

    def middle(box: Box) -> Vector:
        return (box.lower + box.upper) / 2

    found = closed(system, start, np.ones(len(box.lower)), middle, 10_000, lambda: False)
    assert found == (not len(solutions(system, box)))


@pytest.mark.parametrize("seed", range(40))
def test_rounding_is_covered_on_the_edge(seed: int) -> None:
    """The one point of the box is a solution by less than float64 sums can tell."""
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal(60)
    exact = sum(Fraction(weight) for weight in weights)
    value = float(exact)
    lower = value if Fraction(value) <= exact else np.nextafter(value, -np.inf)
    upper = value if Fraction(value) >= exact else np.nextafter(value, np.inf)
    box = Box(np.ones(60), np.ones(60))
    for least, most in ((lower, np.inf), (-np.inf, upper)):
        ends = np.array([least]), np.array([most])
        system = Constraints(csr_matrix(weights[None]), *ends, np.ones(60, dtype=bool))
        assert system.propagated(box) is not None
        assert not any(system.refuted(box, np.array([y])) for y in (1.0, -1.0, 1e6, -1e6))
