"""The sets of frames: every method of `EventChanges` against brute force, and the ball over all frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from certsnn.inputsets import EventChanges, LinfFrames

Row = tuple[int, ...]
few = settings(max_examples=60, deadline=None)


def rows(x: Tensor) -> list[Row]:
    return [tuple(int(count) for count in row) for row in x.movedim(1, 0).flatten(1).tolist()]


@dataclass(frozen=True)
class Case:
    """Counts, a set around them, and each sample's members by definition."""

    x0: Tensor
    changes: EventChanges
    members: list[set[Row]]
    generator: torch.Generator


@st.composite
def cases(draw: st.DrawFn) -> Case:
    shape = draw(st.sampled_from([(1, 1, 1), (1, 2, 3), (2, 2, 2), (3, 1, 1, 1), (2, 1, 2, 1)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x0 = torch.randint(0, 4, shape, generator=generator).to(dtype)
    kind: Literal["any", "add", "drop"] = draw(st.sampled_from(["any", "add", "drop"]))
    changes = EventChanges(draw(st.integers(0, 4)), kind, draw(st.sampled_from([None, 3, 4])))
    return Case(x0, changes, [by_definition(row, changes) for row in rows(x0)], generator)


def by_definition(x0: Row, changes: EventChanges) -> set[Row]:
    """All rows of whole numbers, 0 to 8, that the docstring of `EventChanges` describes."""
    found = set()
    for x in product(range(9), repeat=len(x0)):
        added = sum(max(new - old, 0) for new, old in zip(x, x0, strict=True))
        removed = sum(max(old - new, 0) for new, old in zip(x, x0, strict=True))
        if added + removed > changes.budget or max(x) > (8 if changes.most is None else changes.most):
            continue
        if not (changes.kind == "add" and removed) and not (changes.kind == "drop" and added):
            found.add(x)
    return found


def grid(x0: Tensor) -> Tensor:
    """All whole numbers -1 to 8 in the shape of one sample, as a batch."""
    steps, _, *sample = x0.shape
    every = torch.cartesian_prod(*[torch.arange(-1, 9)] * (steps * math.prod(sample)))
    return every.view(-1, steps, *sample).movedim(0, 1).to(x0)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_contains_is_the_definition(case: Case) -> None:
    every = grid(case.x0)
    for b, own in enumerate(case.members):
        member = case.changes.contains(case.x0[:, b : b + 1].expand_as(every), every)
        assert member.tolist() == [row in own for row in rows(every)]
    for value in (0.5, torch.nan, torch.inf):
        assert not case.changes.contains(case.x0, torch.full_like(case.x0, value)).any()


@few
@given(cases())
def test_enumerate_yields_each_member_once(case: Case) -> None:
    yielded = list(case.changes.enumerate(case.x0))
    assert len(yielded) == max(map(len, case.members))
    assert all(x.dtype == case.x0.dtype and x.shape == case.x0.shape for x in yielded)
    for b, own in enumerate(case.members):
        found = [rows(x)[b] for x in yielded]
        assert set(found) == own
        assert found.count(rows(case.x0)[b]) == 1 + len(found) - len(own)


@few
@given(cases())
def test_box_is_the_hull_and_minimum_is_exact(case: Case) -> None:
    members = torch.stack(list(case.changes.enumerate(case.x0)))
    lower, upper = case.changes.box(case.x0)
    assert lower.dtype == upper.dtype == case.x0.dtype
    assert torch.equal(lower, members.amin(0)) and torch.equal(upper, members.amax(0))
    A = torch.randn((3, *case.x0.shape), generator=case.generator, dtype=torch.float64)
    A[0] = A[0].round()  # zeros and ties
    A.requires_grad_()
    found = case.changes.minimum(A, case.x0)
    values = torch.stack([(A * x).transpose(1, 2).flatten(2).sum(2) for x in members])
    torch.testing.assert_close(found, values.amin(0), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(found[1:].sum(), A)  # a minimiser, where there is only one
    for row in gradient[1:]:
        assert case.changes.contains(case.x0, row).all()
    single = case.changes.minimum(A.detach().float(), case.x0)
    torch.testing.assert_close(single.double(), found.detach(), rtol=0, atol=1e-5)


@few
@given(cases())
def test_projections_and_samples_are_members_and_members_stay(case: Case) -> None:
    x0, changes = case.x0, case.changes
    x = torch.randn(x0.shape, generator=case.generator) * 3 + x0
    score = torch.randint(0, 3, x0.shape, generator=case.generator).to(x0.dtype)
    for weight in (None, score):
        projected = changes.project(x0, x, weight)
        assert projected.dtype == x0.dtype and changes.contains(x0, projected).all()
        for member in changes.enumerate(x0):
            assert torch.equal(changes.project(x0, member, weight), member)
    for _ in range(5):
        x = changes.sample(x0, case.generator)
        assert x.dtype == x0.dtype and changes.contains(x0, x).all()


@few
@given(cases())
def test_parts_of_a_set_are_those_of_the_members(case: Case) -> None:
    width = math.prod(case.x0.shape[2:])
    for steps in range(1, len(case.x0) + 1):
        x0, cut = case.changes.first(case.x0, steps)
        cut.check(x0)
        yielded = list(cut.enumerate(x0))
        for b, own in enumerate(case.members):
            assert {rows(x)[b] for x in yielded} == {row[: steps * width] for row in own}
    mask = torch.rand(case.x0.shape[1], generator=case.generator) < 0.6
    A = torch.randn((2, *case.x0.shape), generator=case.generator, dtype=torch.float64)
    part = case.changes.select(mask).minimum(A[:, :, mask], case.x0[:, mask])
    assert torch.equal(part, case.changes.minimum(A, case.x0)[:, mask])


def test_samples_reach_every_member() -> None:
    x0 = torch.tensor([[[1.0, 0.0]]])
    changes, generator = EventChanges(2), torch.Generator().manual_seed(0)
    found = {rows(changes.sample(x0, generator))[0] for _ in range(2000)}
    assert found == by_definition((1, 0), changes)


def test_the_changes_of_the_highest_score_stay() -> None:
    x0, score = torch.tensor([[[0.0, 2.0, 0.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]])
    wanted = torch.tensor([[[9.0, 0.0, 9.0]]])
    assert rows(EventChanges(3).project(x0, wanted, score)) == [(0, 0, 1)]
    # Half an event is one, so that a small step of an attack is not lost.
    assert rows(EventChanges(1).project(x0, x0 + 0.5, score)) == [(0, 3, 0)]
    assert rows(EventChanges(1).project(x0, x0 + 0.49, score)) == [(0, 2, 0)]


def test_sets_that_are_too_large_to_enumerate_say_so_at_once() -> None:
    x0 = torch.zeros(4, 2, 500)
    assert sum(1 for _ in EventChanges(1).enumerate(x0)) == 2001
    for changes, counts in ((EventChanges(2**23), x0), (EventChanges(9), x0), (EventChanges(2), x0)):
        with pytest.raises(ValueError, match=r"more than 1048576 members"):
            changes.enumerate(counts)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.full((1, 1, 1), 0.5),
            r"whole numbers >= 0, these hold 0\.5: for other numbers take LinfFrames",
        ),
        (torch.full((1, 1, 1), -1.0), r"whole numbers >= 0, these hold -1"),
        (torch.full((1, 1, 1), 5.0), r"reach 5, more than most=4: raise it"),
        (torch.full((1, 1, 1), torch.nan), "NaN or infinite"),
        (torch.zeros(2, 2), r"shape \[T, B, \.\.\.\]"),
    ],
)
def test_counts_that_are_none_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EventChanges(1, most=4).bind(x, torch.arange(1))


def test_counts_beyond_what_float32_holds_are_refused() -> None:
    x = torch.full((2, 1, 1), 2.0**23)
    EventChanges(0).check(x)
    with pytest.raises(ValueError, match="exact up to"):
        EventChanges(1).check(x)


def test_the_settings_of_events_are_checked() -> None:
    for settings_ in ({"budget": -1}, {"budget": 1, "kind": "flip"}, {"budget": 1, "most": -1}):
        with pytest.raises(ValueError, match=r"budget|kind|most"):
            EventChanges(**settings_)
    with pytest.raises(TypeError, match="most is a number of events"):
        EventChanges(1, most=1.5)  # type: ignore[arg-type]
    assert EventChanges(3).scaled(0.5) == EventChanges(2)


@few
@given(st.integers(0, 2**32), st.sampled_from([(0.0, 1.0), (None, None), (-2.0, None)]))
def test_the_ball_is_over_all_frames(seed: int, ends: tuple[float | None, float | None]) -> None:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(3, 2, 4, generator=generator)
    ball = LinfFrames(0.3, *ends)
    ball.check(x0)
    lower, upper = ball.box(x0)
    low, high = (-math.inf if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
    torch.testing.assert_close(lower, (x0 - 0.3).clamp(low, high))
    torch.testing.assert_close(upper, (x0 + 0.3).clamp(low, high))
    A = torch.randn(5, 3, 2, 4, generator=generator, dtype=torch.float64)
    corner = torch.where(A < 0, upper, lower)
    torch.testing.assert_close(ball.minimum(A, x0), (A * corner).sum((1, 3)))
    for x in (lower, upper, ball.project(x0, x0 + 1), *(ball.sample(x0, generator) for _ in range(5))):
        assert ball.contains(x0, x).all()
    # One entry of one sample outside says so of this sample alone.
    upper[2, 1, 3] += 0.01
    assert ball.contains(x0, upper).tolist() == [True, False]
    first, same = ball.first(x0, 2)
    assert torch.equal(first, x0[:2]) and same is ball


def test_frames_outside_of_the_range_are_refused() -> None:
    x = torch.tensor([[[-0.5, 2.0]]])
    with pytest.raises(ValueError, match=r"\[0, 1\], these span \[-0\.5, 2\]: name the range of the data"):
        LinfFrames(0.1).bind(x, torch.arange(1))
    LinfFrames(0.1, None, None).bind(x, torch.arange(1))
    with pytest.raises(TypeError, match=r"frames must be a floating-point tensor.*x\.float\(\)"):
        LinfFrames(0.1).check(torch.zeros(1, 1, 1, dtype=torch.int64))
