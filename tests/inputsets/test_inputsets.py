"""Every method of every input set, against brute force over all inputs of tiny cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from certsnn.encoding import Bernoulli, bernoulli, bernoulli_noise, keyed_uniform
from certsnn.inputsets import (
    CoupledBernoulli,
    FreeSpikes,
    InputSet,
    LinfBall,
    NestedTrains,
    SpikeBox,
    SpikeFlips,
    SpikeShift,
    Threat,
)

Kind = Literal["any", "add", "drop"]
Train = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A set of spikes around x0, and each sample's members by definition, flattened in [T, ...]."""

    x0: Tensor
    input_set: InputSet
    members: list[set[Train]]
    generator: torch.Generator


def rows(x: Tensor) -> list[Train]:
    """Each sample of spikes [T, B, ...], flattened."""
    return [tuple(int(bit) for bit in row) for row in x.movedim(1, 0).flatten(1).tolist()]


def all_trains(x0: Tensor) -> list[Tensor]:
    """All binary trains of x0's shape, the same for all samples of the batch."""
    shape = (x0.shape[0], 1, *x0.shape[2:])
    bits = math.prod(shape)
    return [
        torch.tensor(train, dtype=x0.dtype).view(shape).expand(x0.shape).contiguous()
        for train in product((0, 1), repeat=bits)
    ]


def draw_spikes(
    draw: st.DrawFn,
) -> tuple[Tensor, torch.Generator]:
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        *draw(st.sampled_from([(1,), (2,), (1, 2)])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return torch.randint(0, 2, shape, generator=generator).to(dtype), generator


@st.composite
def box_cases(draw: st.DrawFn) -> Case:
    x0, generator = draw_spikes(draw)
    free = torch.rand(x0.shape, generator=generator) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    lower, upper = x0.masked_fill(free, 0), x0.masked_fill(free, 1)
    members = [
        {v for v in product((0, 1), repeat=len(low)) if all(map(is_sorted, low, v, high))}
        for low, high in zip(rows(lower), rows(upper), strict=True)
    ]
    return Case(x0, SpikeBox(lower, upper), members, generator)


def is_sorted(low: int, value: int, high: int) -> bool:
    return low <= value <= high


@st.composite
def flip_cases(draw: st.DrawFn) -> Case:
    x0, generator = draw_spikes(draw)
    bits = x0[:, 0].numel()
    budget = draw(st.integers(0, bits))
    kind: Kind = draw(st.sampled_from(["any", "add", "drop"]))
    banned = {"any": (), "add": ((1, 0),), "drop": ((0, 1),)}[kind]
    members = [
        {
            v
            for v in product((0, 1), repeat=bits)
            if sum(map(int.__ne__, u, v)) <= budget and not set(zip(u, v, strict=True)) & set(banned)
        }
        for u in rows(x0)
    ]
    return Case(x0, SpikeFlips(budget, kind), members, generator)


@st.composite
def nested_cases(draw: st.DrawFn) -> Case:
    spikes, generator = draw_spikes(draw)
    # Few noise levels, so that ties come up; images on and between them.
    noise = torch.randint(0, 4, spikes.shape, generator=generator).to(spikes.dtype) / 4
    grid = torch.randint(0, 9, (3, *spikes.shape[1:]), generator=generator).to(spikes.dtype) / 8
    lower, image, upper = grid.sort(dim=0).values
    members = []
    for b in range(spikes.shape[1]):
        low, high = lower[b].flatten().tolist(), upper[b].flatten().tolist()
        choices = [
            [level / 16 for level in range(17) if start <= level / 16 <= stop]
            for start, stop in zip(low, high, strict=True)
        ]
        images = (torch.tensor(pixels, dtype=noise.dtype) for pixels in product(*choices))
        steps = noise[:, b].flatten(1)
        members.append({tuple((x > steps).flatten().int().tolist()) for x in images})
    return Case(bernoulli(image, noise), NestedTrains(noise, lower, upper), members, generator)


@st.composite
def shift_cases(draw: st.DrawFn) -> Case:
    steps, pixels = draw(st.sampled_from([(1, 2), (3, 2), (4, 1), (5, 1)]))
    shape = (steps, draw(st.integers(1, 2)), pixels)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rate = draw(st.sampled_from([0.5, 0.2, 0.8]))
    x0 = (torch.rand(shape, generator=generator) < rate).to(
        draw(st.sampled_from([torch.float32, torch.float64]))
    )
    shift = SpikeShift(draw(st.integers(0, steps)), draw(st.integers(0, 4)))
    members = [shifts_by_definition(x0[:, b], shift) for b in range(shape[1])]
    return Case(x0, shift, members, generator)


def shifts_by_definition(x0: Tensor, shift: SpikeShift) -> set[Train]:
    """All trains that giving each spike of [T, pixels] a bit makes."""
    steps, pixels = x0.shape
    spikes = x0.nonzero().tolist()
    found = set()
    for places in product(range(steps), repeat=len(spikes)):
        moves = [to - step for to, (step, _) in zip(places, spikes, strict=True)]
        taken = {(to, pixel) for to, (_, pixel) in zip(places, spikes, strict=True)}
        moved = sum(move != 0 for move in moves)
        if (
            moved <= shift.moved
            and len(taken) == len(spikes)
            and all(abs(m) <= shift.max_shift for m in moves)
        ):
            found.add(tuple(int((t, p) in taken) for t in range(steps) for p in range(pixels)))
    return found


exact_cases = pytest.mark.parametrize(
    "cases", [box_cases(), flip_cases(), nested_cases()], ids=["box", "flips", "nested"]
)
cases = pytest.mark.parametrize(
    "cases",
    [box_cases(), flip_cases(), nested_cases(), shift_cases()],
    ids=["box", "flips", "nested", "shifts"],
)
few = settings(max_examples=60, deadline=None)


@cases
@few
@given(data=st.data())
def test_contains_is_the_definition(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    for x in all_trains(case.x0):
        member = case.input_set.contains(case.x0, x)
        assert member.tolist() == [row in own for row, own in zip(rows(x), case.members, strict=True)]
    assert case.input_set.contains(case.x0, case.x0).all()
    assert not case.input_set.contains(case.x0, torch.full_like(case.x0, 0.5)).any()
    assert not case.input_set.contains(case.x0, torch.full_like(case.x0, torch.nan)).any()


@cases
@few
@given(data=st.data())
def test_enumerate_yields_each_member_once(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    yielded = list(case.input_set.enumerate(case.x0))
    assert len(yielded) == max(map(len, case.members))
    assert all(x.dtype == case.x0.dtype and x.shape == case.x0.shape for x in yielded)
    for b, own in enumerate(case.members):
        trains = [rows(x)[b] for x in yielded]
        assert set(trains) == own
        repeats = len(trains) - len(own)
        assert trains.count(rows(case.x0)[b]) == 1 + repeats


@cases
@few
@given(data=st.data())
def test_box_is_the_hull(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    members = torch.stack(list(case.input_set.enumerate(case.x0)))
    lower, upper = case.input_set.box(case.x0)
    assert lower.dtype == upper.dtype == case.x0.dtype
    assert torch.equal(lower, members.amin(dim=0))
    assert torch.equal(upper, members.amax(dim=0))


@exact_cases
@few
@given(data=st.data())
def test_minimum_is_exact(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    A = torch.randn((3, *case.x0.shape), generator=case.generator, dtype=torch.float64)
    A[0] = A[0].round()  # zeros and ties
    A.requires_grad_()
    minimum = case.input_set.minimum(A, case.x0)
    values = torch.stack(
        [(A * x).transpose(1, 2).flatten(2).sum(dim=2) for x in case.input_set.enumerate(case.x0)]
    )
    torch.testing.assert_close(minimum, values.amin(dim=0), rtol=0, atol=1e-12)
    # The gradient is a minimiser, where there is only one.
    (gradient,) = torch.autograd.grad(minimum[1:].sum(), A)
    for row in gradient[1:]:
        assert case.input_set.contains(case.x0, row).all()
    single = case.input_set.minimum(A.detach().float(), case.x0)
    torch.testing.assert_close(single.double(), minimum.detach(), rtol=0, atol=1e-5)


@cases
@few
@given(data=st.data())
def test_projections_are_members_and_members_stay(
    cases: st.SearchStrategy[Case], data: st.DataObject
) -> None:
    case = data.draw(cases)
    x = torch.rand(case.x0.shape, generator=case.generator) * 3 - 1
    score = torch.randint(0, 3, case.x0.shape, generator=case.generator).float()
    for weight in (None, score, torch.zeros_like(score)):
        projected = case.input_set.project(case.x0, x, weight)
        assert projected.dtype == case.x0.dtype
        assert case.input_set.contains(case.x0, projected).all()
        assert torch.equal(case.input_set.project(case.x0, projected, weight), projected)
        for member in case.input_set.enumerate(case.x0):
            assert torch.equal(case.input_set.project(case.x0, member, weight), member)


@cases
@few
@given(data=st.data())
def test_samples_are_members(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    for _ in range(5):
        x = case.input_set.sample(case.x0, case.generator)
        assert x.dtype == case.x0.dtype
        assert case.input_set.contains(case.x0, x).all()


@cases
@few
@given(data=st.data())
def test_flippable_spikes_lead_to_members(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    x0, flips = case.x0, torch.eye(case.x0[:, 0].numel()).to(case.x0)
    for x in [x0, *(case.input_set.sample(x0, case.generator) for _ in range(3))]:
        members = [
            case.input_set.contains(x0, (x - flip.view(len(x0), 1, *x0.shape[2:])).abs()) for flip in flips
        ]
        flippable = case.input_set.flippable(x0, x)
        assert flippable.movedim(1, 0).flatten(1).tolist() == torch.stack(members, 1).tolist()


@cases
@few
@given(data=st.data())
def test_select_keeps_the_chosen_samples(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    mask = torch.rand(case.x0.shape[1], generator=case.generator) < 0.6
    chosen, x0 = case.input_set.select(mask), case.x0[:, mask]
    chosen.check(x0)
    A = torch.randn((2, *case.x0.shape), generator=case.generator, dtype=torch.float64)
    expected = case.input_set.minimum(A, case.x0)[:, mask]
    assert torch.equal(chosen.minimum(A[:, :, mask], x0), expected)


@exact_cases
@few
@given(data=st.data())
def test_first_steps_are_those_of_the_members(cases: st.SearchStrategy[Case], data: st.DataObject) -> None:
    case = data.draw(cases)
    width = math.prod(case.x0.shape[2:])
    for steps in range(1, len(case.x0) + 1):
        x0, cut = case.input_set.first(case.x0, steps)
        cut.check(x0)
        assert torch.equal(x0, case.x0[:steps])
        yielded = list(cut.enumerate(x0))
        for b, own in enumerate(case.members):
            assert {rows(x)[b] for x in yielded} == {train[: steps * width] for train in own}


def test_images_have_no_first_steps() -> None:
    ball = LinfBall(0.1)
    x0, same = ball.first(X, 1)
    assert x0 is X and same is ball


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


# NestedTrains and CoupledBernoulli


def nested(noise: list[float], lower: float = 0.0, upper: float = 1.0) -> NestedTrains:
    pixels = (torch.tensor([[limit]]) for limit in (lower, upper))
    return NestedTrains(torch.tensor(noise).view(-1, 1, 1), *pixels)


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


@few
@given(st.integers(0, 2**32), st.floats(0, 1.5))
def test_coupled_spikes_are_those_of_the_image_ball(seed: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, index = torch.rand((3, 1, 4), generator=generator), torch.tensor([5, 0, 9])
    threat = CoupledBernoulli(eps, steps=4, seed=seed)
    x0, trains = threat.bind(x, index)
    trains.check(x0)
    assert torch.equal(x0, Bernoulli(4, seed)(x, index))
    noise = bernoulli_noise((1, 4), 4, seed, index)
    for _ in range(5):
        image = LinfBall(eps).sample(x, generator)
        assert trains.contains(x0, bernoulli(image, noise)).all()
    same, cover = threat.cover(x, index)
    assert torch.equal(same, x0)
    for ours, theirs in zip(trains.box(x0), cover.box(x0), strict=True):
        assert torch.equal(ours, theirs)
    A = torch.randn((2, *x0.shape), generator=generator)
    assert (cover.minimum(A, x0) <= trains.minimum(A, x0) + 1e-5).all()


def test_binding_does_not_depend_on_the_batch() -> None:
    x, index = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    for threat in (CoupledBernoulli(0.2, 5), FreeSpikes(0.5)):
        inputs = x if threat.domain == "image" else Bernoulli(5)(x, index)
        axis = 0 if threat.domain == "image" else 1
        x0, whole = threat.bind(inputs, index)
        part = torch.tensor([2, 0])
        x0_part, chosen = threat.bind(inputs.index_select(axis, part), index[part])
        assert torch.equal(x0_part, x0[:, part])
        for ours, theirs in zip(chosen.box(x0_part), whole.box(x0), strict=True):
            assert torch.equal(ours, theirs[:, part])


# SpikeBox and FreeSpikes


def test_free_spikes_free_their_share() -> None:
    x = torch.randint(0, 2, (10, 3, 200), generator=torch.Generator().manual_seed(0)).float()
    index = torch.arange(3)

    def free(density: float) -> Tensor:
        x0, box = FreeSpikes(density, seed=1).bind(x, index)
        assert torch.equal(x0, x)
        box.check(x0)
        lower, upper = box.box(x0)
        return lower != upper

    assert not free(0.0).any() and free(1.0).all()
    assert abs(float(free(0.3).float().mean()) - 0.3) < 0.03
    assert (free(0.6) | ~free(0.3)).all()
    # Freed bits are independent of the encoding noise under the same seed.
    noise = keyed_uniform((10, 200), 1, index)
    assert abs(float(noise[free(0.3)].mean()) - 0.5) < 0.03


# LinfBall


@given(
    st.floats(0, 1, width=32),
    st.floats(0, 1, width=32),
    st.floats(0, 2),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_linf_box_holds_all_that_is_within_eps(
    start: float, other: float, eps: float, dtype: torch.dtype
) -> None:
    x0, x = torch.tensor([[start]], dtype=dtype), torch.tensor([[other]], dtype=dtype)
    distance = abs(Fraction(x.item()) - Fraction(x0.item()))
    ball = LinfBall(eps)
    if distance <= Fraction(eps):
        assert ball.contains(x0, x).item()
    # The ball of just this radius in exact arithmetic, rounded to float64 upwards.
    assert LinfBall(math.nextafter(float(distance), math.inf)).contains(x0, x).item()
    # No looser than one rounding.
    lower, upper = ball.box(x0)
    assert max(0.0, x0.item() - eps) == pytest.approx(lower.item(), rel=1e-2, abs=1e-6)
    assert min(1.0, x0.item() + eps) == pytest.approx(upper.item(), rel=1e-2, abs=1e-6)
    assert ball.contains(x0, x0).item()


def test_linf_box_is_rounded_from_float64() -> None:
    x0 = torch.tensor([[0.5, 0.05, 0.95]])
    lower, upper = LinfBall(0.1).box(x0)
    wide = x0.double()
    assert torch.equal(lower, (wide - 0.1).clamp(min=0).float())
    assert torch.equal(upper, (wide + 0.1).clamp(max=1).float())
    assert lower[0, 1] == 0 and upper[0, 2] == 1
    unbounded = LinfBall(0.1, low=None, high=None).box(x0)
    assert unbounded[0][0, 1] < 0 and unbounded[1][0, 2] > 1


def test_linf_contains_is_sharp() -> None:
    ball, x0 = LinfBall(0.1), torch.tensor([[0.5, 0.3], [0.5, 0.3]])
    lower, upper = ball.box(x0)
    below = torch.nextafter(lower, torch.tensor(-1.0))
    above = torch.nextafter(upper, torch.tensor(2.0))
    assert ball.contains(x0, lower).all() and ball.contains(x0, upper).all()
    for outside in (below, above):
        x = x0.clone()
        x[0, 1] = outside[0, 1]
        assert ball.contains(x0, x).tolist() == [False, True]
    assert not ball.contains(x0, x0 * torch.nan).any()


@few
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_linf_against_its_corners(seed: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand((2, 1, 3), generator=generator)
    ball = LinfBall(eps)
    ends = torch.stack(ball.box(x0)).flatten(2)
    corners = [
        torch.stack([ends[pick, :, i] for i, pick in enumerate(picks)], dim=1).view(x0.shape)
        for picks in product((0, 1), repeat=3)
    ]
    A = torch.randn((4, *x0.shape), generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.stack([(A * corner).flatten(2).sum(dim=2) for corner in corners])
    minimum = ball.minimum(A, x0)
    torch.testing.assert_close(minimum, values.amin(dim=0), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(minimum.sum(), A)
    assert all(ball.contains(x0, row).all() for row in gradient)
    far = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    projected = ball.project(x0, far)
    assert projected.dtype == x0.dtype and ball.contains(x0, projected).all()
    for x in (projected, ball.sample(x0, generator), *corners):
        assert ball.contains(x0, x).all()
        assert torch.equal(ball.project(x0, x), x)


def test_linf_samples_inside_and_corners() -> None:
    x0, ball = torch.full((3000, 8), 0.5), LinfBall(0.25)
    moved = (ball.sample(x0, torch.Generator().manual_seed(0)) - x0).abs()
    corner = (moved == 0.25).all(dim=1)
    still = (moved == 0).any(dim=1)
    shares = [float(kind.float().mean()) for kind in (corner, still, ~corner & ~still)]
    assert min(shares) > 0.2 and sum(shares) == pytest.approx(1)


def test_linf_samples_of_low_precision_stay_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((500, 40), generator=generator).bfloat16()
    for eps in (0.03, 0.1, 0.7):
        ball = LinfBall(eps, low=None, high=None)
        assert ball.contains(x0, ball.sample(x0, generator)).all()


def test_linf_of_no_radius_is_the_image() -> None:
    x0 = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    (only,) = LinfBall(0).enumerate(x0)
    assert torch.equal(only, x0)
    assert all(torch.equal(bound, x0) for bound in LinfBall(0).box(x0))


def test_limits_are_compared_in_the_images_precision() -> None:
    x = torch.full((1, 2), 0.1)  # float32(0.1) > 0.1
    ball = LinfBall(0.0, high=0.1)
    ball.check(x)
    assert ball.contains(x, x).all()
    ball.check(x.double().fill_(0.1))
    with pytest.raises(ValueError, match="within"):
        ball.check(x.double())


# All of them


def test_scaled() -> None:
    assert LinfBall(0.2, low=None).scaled(0.5) == LinfBall(0.1, low=None)
    assert CoupledBernoulli(0.2, 3, 4).scaled(0.5) == CoupledBernoulli(0.1, 3, 4)
    assert FreeSpikes(0.5, 4).scaled(0.5) == FreeSpikes(0.25, 4)
    assert FreeSpikes(0.5).scaled(3) == FreeSpikes(1.0)
    assert SpikeFlips(5, "add").scaled(0.5) == SpikeFlips(3, "add")
    assert SpikeFlips(100).scaled(0.07) == SpikeFlips(7)
    assert SpikeFlips(5).scaled(0) == SpikeFlips(0)
    assert SpikeShift(2, 5).scaled(0.5) == SpikeShift(2, 3)
    box = SpikeBox(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    assert box.scaled(1) is box
    trains = nested([0.5])
    assert trains.scaled(1) is trains


@pytest.mark.parametrize(
    "threat", [CoupledBernoulli(0.4, 4), FreeSpikes(0.4), SpikeFlips(3), SpikeShift(1, 3)]
)
def test_scaled_to_nothing_leaves_the_input_alone(threat: Threat) -> None:
    x = torch.randint(0, 2, (3, 2, 4), generator=torch.Generator().manual_seed(0)).float()
    x0, input_set = threat.scaled(0).bind(x, torch.arange(x.shape[threat.domain == "spikes"]))
    (only,) = input_set.enumerate(x0)
    assert torch.equal(only, x0)
    assert all(torch.equal(bound, x0) for bound in input_set.box(x0))


def test_domains_and_descriptions() -> None:
    box = SpikeBox(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 1.0]]]))
    table: list[tuple[Threat, str, str, str]] = [
        (LinfBall(0.1), "image", "image", "LinfBall(eps=0.1)"),
        (LinfBall(0.1, high=None), "image", "image", "LinfBall(eps=0.1, low=0, high=inf)"),
        (box, "spikes", "spikes", "SpikeBox(free=0.5)"),
        (FreeSpikes(0.2), "spikes", "spikes", "FreeSpikes(density=0.2, seed=0)"),
        (SpikeFlips(5), "spikes", "spikes", "SpikeFlips(budget=5, kind=any)"),
        (SpikeShift(2, 5), "spikes", "spikes", "SpikeShift(max_shift=2, moved=5)"),
        (CoupledBernoulli(0.1, 4), "image", "spikes", "CoupledBernoulli(eps=0.1, steps=4, seed=0)"),
        (nested([0.5, 0.1]), "spikes", "spikes", "NestedTrains(steps=2)"),
    ]
    for threat, domain, network_input, name in table:
        assert (threat.domain, threat.network_input, threat.describe()) == (
            domain,
            network_input,
            name,
        )
    assert LinfBall(0.1).batch_axis == 0 and SpikeFlips(1).batch_axis == 1


X, INDEX = torch.full((2, 3), 0.5), torch.tensor([0, 1])
SPIKES = torch.zeros(4, 2, 3)
WIDE = torch.zeros(7, 1, 3)  # 2**21 trains
BOX = SpikeBox(SPIKES, torch.ones_like(SPIKES))
TRAINS = CoupledBernoulli(0.1, 4).bind(X, INDEX)[1]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "eps must be finite", lambda: LinfBall(-0.1)),
        (ValueError, "eps must be finite", lambda: LinfBall(math.nan)),
        (ValueError, "eps must be finite", lambda: CoupledBernoulli(math.inf, 3)),
        (TypeError, "eps must be a number", lambda: LinfBall("0.1")),  # type: ignore[arg-type]
        (ValueError, "low must be less", lambda: LinfBall(0.1, low=1.0, high=0.0)),
        (TypeError, "low must be a number", lambda: LinfBall(0.1, low="a")),  # type: ignore[arg-type]
        (ValueError, "factor must be finite", lambda: LinfBall(0.1).scaled(-1)),
        (ValueError, "NaN", lambda: LinfBall(0.1).bind(X * torch.nan, INDEX)),
        (ValueError, "NaN or inf", lambda: LinfBall(1, None, None).bind(X * torch.inf, INDEX)),
        (ValueError, r"within \[0, 1\]", lambda: LinfBall(0.1).bind(X - 1, INDEX)),
        (TypeError, "floating-point", lambda: LinfBall(0.1).bind(X.long(), INDEX)),
        (ValueError, "batch axis", lambda: LinfBall(0.1).bind(X[0], INDEX)),
        (ValueError, "infinitely many", lambda: LinfBall(0.1).enumerate(X)),
        (ValueError, "coefficients have shape", lambda: LinfBall(0.1).minimum(X, X)),
        (TypeError, "coefficients must be", lambda: LinfBall(0.1).minimum(X.long()[None], X)),
        (ValueError, "x has shape", lambda: LinfBall(0.1).contains(X, X[:1])),
        (ValueError, "x holds NaN", lambda: LinfBall(0.1).project(X, X * torch.nan)),
        (ValueError, "x is on meta", lambda: LinfBall(0.1).contains(X, X.to("meta"))),
        (ValueError, "budget must be finite", lambda: SpikeFlips(-1)),
        (TypeError, "an integer", lambda: SpikeFlips(1.5)),  # type: ignore[arg-type]
        (ValueError, "any, add, drop", lambda: SpikeFlips(1, "move")),  # type: ignore[arg-type]
        (ValueError, "exceeds the 12 bits", lambda: SpikeFlips(13).bind(SPIKES, INDEX)),
        (ValueError, "max_shift must be finite", lambda: SpikeShift(-1, 1)),
        (TypeError, "moved is a number of spikes", lambda: SpikeShift(1, 1.5)),  # type: ignore[arg-type]
        (ValueError, "must be binary", lambda: SpikeShift(1, 1).bind(SPIKES + 0.5, INDEX)),
        (ValueError, "too many", lambda: SpikeShift(30, 30).enumerate(torch.eye(30)[:, None])),
        (ValueError, "first 5 steps .* have 4", lambda: SpikeShift(1, 1).first(SPIKES, 5)),
        (ValueError, "must be binary", lambda: SpikeFlips(1).bind(SPIKES + 0.5, INDEX)),
        (ValueError, "hold NaN", lambda: SpikeFlips(1).bind(SPIKES * torch.nan, INDEX)),
        (ValueError, "time or batch axis", lambda: SpikeFlips(1).bind(SPIKES[0], INDEX)),
        (TypeError, "floating-point", lambda: SpikeFlips(1).bind(SPIKES.bool(), INDEX)),
        (ValueError, "too many", lambda: SpikeFlips(21).enumerate(WIDE)),
        (ValueError, "score has shape", lambda: SpikeFlips(1).project(SPIKES, SPIKES, X)),
        (ValueError, "score holds NaN", lambda: SpikeFlips(1).project(SPIKES, SPIKES, SPIKES / 0)),
        (ValueError, "first 5 steps .* have 4", lambda: SpikeFlips(1).first(SPIKES, 5)),
        (ValueError, "first 0 steps .* have 4", lambda: BOX.first(SPIKES, 0)),
        (ValueError, "first 5 steps .* have 4", lambda: TRAINS.first(SPIKES, 5)),
        (ValueError, "lower exceeds", lambda: SpikeBox(SPIKES + 1, SPIKES)),
        (ValueError, "must be binary", lambda: SpikeBox(SPIKES, SPIKES + 2)),
        (ValueError, "upper has shape", lambda: SpikeBox(SPIKES, SPIKES[:1])),
        (ValueError, "outside the SpikeBox", lambda: SpikeBox(SPIKES, SPIKES).check(SPIKES + 1)),
        (ValueError, "this SpikeBox has shape", lambda: BOX.check(SPIKES[:, :1])),
        (ValueError, "too many", lambda: SpikeBox(WIDE, WIDE + 1).enumerate(WIDE)),
        (ValueError, "use FreeSpikes", lambda: BOX.scaled(0.5)),
        (ValueError, "boolean tensor", lambda: BOX.select(torch.tensor([True]))),
        (ValueError, "at most 1", lambda: FreeSpikes(1.5)),
        (ValueError, "one a sample", lambda: FreeSpikes(0.5).bind(SPIKES, INDEX[:1])),
        (ValueError, "at least 1", lambda: CoupledBernoulli(0.1, 0)),
        (ValueError, r"within \[0, 1\]", lambda: CoupledBernoulli(0.1, 3).bind(X + 1, INDEX)),
        (ValueError, "one a sample", lambda: CoupledBernoulli(0.1, 3).bind(X, INDEX[:1])),
        (ValueError, "noise holds NaN", lambda: NestedTrains(SPIKES / 0, X, X)),
        (ValueError, "noise must have", lambda: NestedTrains(X, X, X)),
        (ValueError, "lower has shape", lambda: NestedTrains(SPIKES, X[:1], X)),
        (ValueError, "lower exceeds", lambda: NestedTrains(SPIKES, X + 1, X)),
        (ValueError, "not the encoding", lambda: nested([0.1, 0.2], 0.5).check(WIDE[:2, :, :1])),
        (ValueError, "NestedTrains has shape", lambda: TRAINS.check(SPIKES[:, :1])),
        (ValueError, "scale CoupledBernoulli", lambda: TRAINS.scaled(0.5)),
        (ValueError, "boolean tensor", lambda: TRAINS.select(torch.tensor([1, 0]))),
        (ValueError, "at least 0", lambda: TRAINS.project(SPIKES, SPIKES, SPIKES - 1)),
    ],
)
def test_errors_name_the_problem(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_enumeration_limit_of_nested_trains() -> None:
    x = torch.zeros(1, 6)
    x0, trains = CoupledBernoulli(1.0, 40).bind(x, torch.tensor([0]))
    with pytest.raises(ValueError, match="too many"):
        trains.enumerate(x0)


def test_an_empty_batch_is_fine() -> None:
    x, index = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    for threat in (LinfBall(0.1), CoupledBernoulli(0.1, 4)):
        x0, input_set = threat.bind(x, index)
        assert input_set.contains(x0, x0).shape == (0,)
        assert input_set.minimum(torch.zeros(2, *x0.shape), x0).shape == (2, 0)
        assert input_set.project(x0, x0).shape == x0.shape
