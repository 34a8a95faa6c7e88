"""Every method of every input set, against brute force over all inputs of tiny cases."""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from input_set_cases import Case, few, rows, shift_cases
from torch import Tensor

from certsnn.encoding import bernoulli
from certsnn.inputsets import (
    LinfBall,
    NestedTrains,
    SpikeBox,
    SpikeFlips,
)

Kind = Literal["any", "add", "drop"]


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


exact_cases = pytest.mark.parametrize(
    "cases", [box_cases(), flip_cases(), nested_cases()], ids=["box", "flips", "nested"]
)
cases = pytest.mark.parametrize(
    "cases",
    [box_cases(), flip_cases(), nested_cases(), shift_cases()],
    ids=["box", "flips", "nested", "shifts"],
)


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
    x = torch.rand(2, 3)
    x0, same = ball.first(x, 1)
    assert x0 is x and same is ball
