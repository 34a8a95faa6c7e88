"""Input sets one by one: sampling, projection, binding and scaling, beside the properties that all share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from input_set_cases import Case, few, rows, shift_cases
from input_set_parts import nested
from torch import Tensor

from certsnn.inputsets import (
    InputSet,
    NestedTrains,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
)


@pytest.mark.parametrize(
    "input_set",
    [
        SpikeFlips(2),
        SpikeBox(torch.zeros(3, 1, 2), torch.ones(3, 1, 2)),
        NestedTrains(torch.arange(6).view(3, 1, 2) / 6, torch.zeros(1, 2), torch.ones(1, 2)),
    ],
)
def test_sampling_reaches_every_member(input_set: InputSet) -> None:
    x0 = torch.zeros(3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    seen = {rows(input_set.sample(x0, generator))[0] for _ in range(3000)}
    assert seen == {rows(x)[0] for x in input_set.enumerate(x0)}


def test_sampling_reaches_every_shift() -> None:
    x0 = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0]]).float()[:, None]
    shift, generator = SpikeShift(2, 3), torch.Generator().manual_seed(0)
    many = x0.expand(-1, 5000, -1)
    seen = set(rows(shift.sample(many, generator)))
    assert seen == {rows(x)[0] for x in shift.enumerate(x0)}


def test_same_seed_same_sample() -> None:
    x0 = torch.zeros(4, 2, 3)
    first, again = (SpikeFlips(3).sample(x0, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)


# SpikeFlips


def test_flips_over_budget_keep_the_best_or_the_first() -> None:
    x0, x = torch.zeros(2, 1, 2), torch.ones(2, 1, 2)
    score = torch.tensor([[[1.0, 5.0]], [[2.0, 7.0]]])
    assert rows(SpikeFlips(2).project(x0, x)) == [(1, 1, 0, 0)]
    assert rows(SpikeFlips(2).project(x0, x, score)) == [(0, 1, 0, 1)]
    assert rows(SpikeFlips(2).project(x0, x, torch.ones_like(x))) == [(1, 1, 0, 0)]


def test_flips_project_spends_nothing_on_what_is_not_proposed() -> None:
    x0, x = torch.zeros(2, 1, 2), torch.tensor([[[0.0, 1.0]], [[1.0, 0.4]]])
    score = torch.tensor([[[9.0, 1.0]], [[2.0, 9.0]]])
    assert rows(SpikeFlips(1).project(x0, x, score)) == [(0, 0, 1, 0)]
    assert rows(SpikeFlips(2).project(x0, x, score)) == [(0, 1, 1, 0)]
    assert rows(SpikeFlips(2, "drop").project(x0, x, score)) == [(0, 0, 0, 0)]


def test_flips_use_the_full_budget_for_half_of_the_samples() -> None:
    x0 = torch.zeros(5, 4000, 2)
    count = SpikeFlips(9).sample(x0, torch.Generator().manual_seed(0)).sum(dim=(0, 2))
    shares = torch.bincount(count.long(), minlength=10) / 4000
    assert abs(float(shares[9]) - 0.55) < 0.03 and float(shares[:9].min()) > 0.03


# SpikeShift


def train(*bits: int) -> Tensor:
    """One pixel of one sample."""
    return torch.tensor(bits, dtype=torch.float32).view(-1, 1, 1)


def test_a_spike_may_land_where_another_one_has_left() -> None:
    x0, burst = train(1, 1, 0, 0), train(0, 1, 1, 0)
    assert not SpikeShift(1, 1).contains(x0, burst)  # one spike would have to pass the other
    assert SpikeShift(1, 2).contains(x0, burst) and SpikeShift(2, 1).contains(x0, burst)
    assert not SpikeShift(1, 4).contains(x0, train(0, 0, 1, 1))
    assert not SpikeShift(3, 4).contains(x0, train(1, 0, 0, 0))


@few
@given(case=shift_cases(), size=st.sampled_from([1.0, 1e-3, 1e6]))
def test_the_minimum_over_shifts_is_a_lower_bound(case: Case, size: float) -> None:
    A = size * torch.randn((3, *case.x0.shape), generator=case.generator, dtype=torch.float64)
    A[0] = A[0].round()
    minimum = case.input_set.minimum(A, case.x0)
    members = torch.stack(list(case.input_set.enumerate(case.x0)))
    values = torch.einsum("stbi,mtbi->msb", A, members.double()).amin(dim=0)
    nominal = (A * case.x0).movedim(2, 1).flatten(2).sum(dim=2)
    assert (minimum <= values + 1e-13 * size).all()
    if isinstance(case.input_set, SpikeShift) and case.input_set.moved == 1:  # nothing to collide with
        torch.testing.assert_close(minimum, values, rtol=0, atol=1e-12 * size)
    if case.input_set == SpikeShift(0, 4):
        torch.testing.assert_close(minimum, nominal, rtol=0, atol=1e-12 * size)
    single = case.input_set.minimum(A.float(), case.x0)
    torch.testing.assert_close(single.double(), minimum, rtol=1e-4, atol=1e-4 * size)


def test_the_minimum_over_shifts_takes_no_bit_twice() -> None:
    # One place to go to that is worth it, and two spikes that would: a bound by places counts it once.
    A = torch.tensor([0.0, 0.0, -1.0, 0.0]).view(1, 4, 1, 1)
    assert float(SpikeShift(2, 2).minimum(A, train(1, 1, 0, 0))) == pytest.approx(-1, abs=1e-5)
    # One spike that is worth moving, and two places for it: a bound by spikes counts it once.
    A = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1, 1)
    assert float(SpikeShift(1, 2).minimum(A, train(0, 1, 0, 0))) == pytest.approx(0, abs=1e-5)


def test_gradients_of_the_minimum_over_shifts_are_numbers() -> None:
    A = torch.randn(2, 4, 3, 5, requires_grad=True)
    x0 = (torch.rand(4, 3, 5) < 0.5).float()
    SpikeShift(2, 3).minimum(A, x0).sum().backward()
    assert A.grad is not None and bool(A.grad.isfinite().all())
    assert float((A.grad - x0).abs().sum()) > 0


@few
@given(case=shift_cases())
def test_the_first_steps_of_shifts_cover_those_of_the_members(case: Case) -> None:
    width = case.x0.shape[2]
    for steps in range(1, len(case.x0) + 1):
        x0, cut = case.input_set.first(case.x0, steps)
        cut.check(x0)
        assert torch.equal(x0, case.x0[:steps])
        for b, own in enumerate(case.members):
            for member in own:
                x = x0.clone()
                x[:, b] = torch.tensor(member[: steps * width]).view(steps, width)
                assert cut.contains(x0, x)[b]


def test_shifts_project_pairs_what_should_go_with_what_should_come() -> None:
    x0, x = train(1, 0, 0, 0, 1, 0), train(0, 0, 1, 1, 0, 0)
    assert rows(SpikeShift(1, 1).project(x0, x)) == [(1, 0, 0, 1, 0, 0)]
    assert rows(SpikeShift(1, 2).project(x0, x)) == [(0, 1, 0, 1, 0, 0)]
    assert rows(SpikeShift(1, 1).project(x0, train(1, 0, 0, 0, 0, 0))) == [(1, 0, 0, 0, 0, 1)]
    assert rows(SpikeShift(1, 2).project(x0, train(1, 1, 0, 0, 1, 0))) == [(0, 1, 0, 0, 1, 0)]
    assert rows(SpikeShift(2, 2).project(x0, x)) == [(0, 0, 1, 1, 0, 0)]
    score = torch.tensor([5.0, 0, 5, 1, 1, 0]).view(-1, 1, 1)
    assert rows(SpikeShift(2, 1).project(x0, x, score)) == [(0, 0, 1, 0, 1, 0)]


def test_equal_noise_flips_together() -> None:
    trains = nested([0.5, 0.2, 0.5], upper=0.8)
    x0 = torch.zeros(3, 1, 1)
    assert {rows(x)[0] for x in trains.enumerate(x0)} == {(0, 0, 0), (0, 1, 0), (1, 1, 1)}
    # The prefix of one of the two tied bits would reach -3.
    A = torch.tensor([-2.0, -1.0, 2.0]).view(1, 3, 1, 1)
    assert trains.minimum(A, x0).tolist() == [[-1.0]]


def test_nested_projection_maximises_agreement() -> None:
    trains, x0 = nested([0.1, 0.3, 0.5, 0.7]), torch.zeros(4, 1, 1)
    x = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
    score = torch.tensor([1.0, 9.0, 1.0, 1.0]).view(4, 1, 1)
    assert rows(trains.project(x0, x)) == [(1, 1, 1, 1)]
    assert rows(trains.project(x0, x, score)) == [(1, 0, 0, 0)]


def test_nested_projection_ties_go_to_the_nominal_train() -> None:
    trains = nested([0.1, 0.3])
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1)  # none and both agree on one bit each
    none, both = torch.zeros(2, 1, 1), torch.ones(2, 1, 1)
    assert rows(trains.project(none, x)) == rows(none)
    assert rows(trains.project(both, x)) == rows(both)
