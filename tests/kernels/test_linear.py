"""The compiled kernels of linear bounds against torch's, bit for bit but for a zero's sign; gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Case, cases, check_same
from torch import Tensor

from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, Interval
from certsnn.bounds.linear.constant_current import HeldMidpoint, held, pieces
from certsnn.bounds.linear.lines import by_step
from certsnn.dynamics import Dynamics
from certsnn.kernels import threads
from certsnn.kernels.lines import Scanned
from certsnn.neurons import IF, LIF

pytest.importorskip("numba")

from certsnn.kernels.fused import Fused
from certsnn.kernels.reference import Reference

KINDS = (Fused, Reference)
Given = tuple[Tensor, Tensor, Tensor, Tensor, Dynamics]


def random(case: Case, generator: torch.Generator, *shape: int) -> Tensor:
    """Coefficients: halves of small integers, so that some are 0 or alike, or any."""
    dtype = case.dynamics.threshold.dtype
    if case.unit == 0.125:
        return torch.randint(-4, 5, shape, generator=generator).to(dtype) / 2
    return torch.randn(shape, generator=generator, dtype=dtype)


def joint_case(case: Case, rows: int) -> Given:
    """Coefficients and ends: some intervals are points, some begin or end at the threshold."""
    generator = case.generator()
    dynamics = case.dynamics.mapped(Tensor.detach)
    a = random(case, generator, rows, *case.shape)
    carried = random(case, generator, rows, *case.shape[1:])
    low, high = (end.contiguous() for end in case.ends())
    dynamics = by_step(dynamics, low.shape)
    for end in (low, high):
        meets = torch.rand(low.shape, generator=generator) < 0.1
        end.copy_(torch.where(meets, dynamics.threshold.expand_as(end), end))
    if not case.odd:
        low, high = torch.minimum(low, high), torch.maximum(low, high)
    return a, carried, low, high, dynamics


@given(cases(), st.integers(0, 3))
def test_joint_scans_are_the_same(case: Case, rows: int) -> None:
    found = joint_case(case, rows)
    one, other = (kind().joint_scan(*found, None) for kind in KINDS)
    check_same(one, other)


def sized(x: Tensor, leading: int) -> Tensor:
    """With the axes after the leading ones as one."""
    return x.reshape(*x.shape[:leading], math.prod(x.shape[leading:]))


@settings(max_examples=30)
@given(cases(), st.integers(1, 3))
def test_joint_scans_follow_neurons_to_their_places(case: Case, rows: int) -> None:
    *arrays, dynamics = joint_case(case, rows)
    a, carried, low, high = (sized(x, k) for x, k in zip(arrays, (3, 2, 2, 2), strict=True))
    sample = case.shape[2:]
    initial = dynamics.initial if dynamics.initial.numel() == 1 else dynamics.initial.expand(sample).flatten()
    dynamics = dynamics.mapped(lambda x: sized(x, 2) if x.ndim > len(sample) else x)._replace(initial=initial)
    steps, batch, neurons = low.shape
    # One place more than neurons: that of those which are gone.
    order = torch.rand(steps - 1, batch, neurons + 1, generator=case.generator()).argsort(2)
    follow = order[..., :neurons].contiguous()
    one, other = (kind().joint_scan(a, carried, low, high, dynamics, follow) for kind in KINDS)
    check_same(one, other)


@settings(max_examples=50)
@given(cases(), st.integers(0, 3))
def test_gradients_of_joint_scans_are_those_of_autograd(case: Case, rows: int) -> None:
    *arrays, dynamics = joint_case(case._replace(odd=False), rows)
    a, carried, low, high = (x.double() for x in arrays)
    dynamics, generator = dynamics.mapped(Tensor.double), case.generator()
    # Some intervals are so narrow around the threshold that they are widened, on either side.
    for part, below, above in ((0.1, 1e-10, 3e-11), (0.2, 3e-11, 1e-10)):
        narrow = torch.rand(low.shape, generator=generator) < part * (case.seed % 2)
        low = torch.where(narrow, dynamics.threshold * (1 - below), low)
        high = torch.where(narrow, dynamics.threshold * (1 + above), high)
    given_ = a, carried, low, high, dynamics
    k, _ = Reference().joint_scan(*given_, None)
    to = Scanned(*(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (a, carried)))
    one, other = (kind().joint_gradient(*given_, None, k, to) for kind in KINDS)
    shapes = [x.shape for x in (a, carried, low, low, *dynamics.numbers())]
    for mine, theirs, shape in zip(one, other, shapes, strict=True):
        assert mine.shape == shape or mine.sum_to_size(shape).shape == shape
        size = 1 + float(torch.stack([x.abs().max() for x in other[2:] if x.numel()] or [low.sum()]).max())
        # Terms of narrow ones are squares of slopes of 1e8, which cancel.
        atol = 1e-9 * size + 1e4 * (case.seed % 2)
        torch.testing.assert_close(mine.sum_to_size(shape), theirs.sum_to_size(shape), rtol=1e-9, atol=atol)


def held_case(
    seed: int, neuron: IF | LIF, unit: float, dtype: torch.dtype, sizes: tuple[int, ...]
) -> tuple[Tensor, HeldMidpoint]:
    rows, steps, batch, neurons = sizes
    generator = torch.Generator().manual_seed(seed)
    dynamics = neuron.dynamics().mapped(lambda number: number.detach().to(dtype))
    low = torch.rand(batch, neurons, generator=generator, dtype=dtype) * 1.5 - 0.5
    width = torch.rand(batch, neurons, generator=generator, dtype=dtype)
    # A third of them are points.
    high = low + 0.6 * width * (torch.rand(low.shape, generator=generator) > 0.3)
    cut = pieces(-0.5, 1.6, steps, dynamics, unit)
    assert cut is not None
    a = torch.randn(rows, steps, batch, neurons, generator=generator, dtype=dtype)
    return a, held(Interval(low, high), cut, dynamics)


@settings(max_examples=40)
@given(
    st.integers(0, 2**16),
    st.sampled_from([LIF(0.3, 0.25), LIF(1.0, 0.5, "subtract"), IF(0.8, initial=0.4)]),
    st.sampled_from([0.0, FLOAT32_UNIT]),
    st.sampled_from([torch.float32, torch.float64]),
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 2), st.sampled_from([1, 7, 150])),
)
def test_lines_of_held_currents_are_the_same(
    seed: int, neuron: IF | LIF, unit: float, dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    a, lines = held_case(seed, neuron, unit, dtype, sizes)
    one, other = (kind().held_line(a, lines.trains, lines.points) for kind in KINDS)
    check_same(one, other)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_lines_of_coefficients_that_are_not_finite_are_not_above(odd: float) -> None:
    a, lines = held_case(0, LIF(0.3, 0.25), 0.0, torch.float64, (2, 4, 1, 6))
    a[0, 2] = odd
    for kind in KINDS:
        k, intercepts = kind().held_line(a, lines.trains, lines.points)
        assert not (intercepts[0] > 1e3).any()
        assert k[1].isfinite().all() and intercepts[1].isfinite().all()
        if math.isnan(odd):
            assert intercepts[0].isnan().all()


@settings(max_examples=40)
@given(cases(), st.integers(0, 3), st.sampled_from(["frames", "frame", "number"]))
def test_missed_terms_are_the_same(case: Case, rows: int, kind: str) -> None:
    a, _, low, _, _ = joint_case(case, rows)
    error = low[:1] if kind == "frame" else low
    if kind == "number":
        error = low.new_full([1] * low.ndim, 0.5)
    one, other = (kernels().missed(a, error) for kernels in KINDS)
    check_same([one], [other])


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where units of work are blocks of neurons nor where they are whole samples."""
    monkeypatch.setattr(threads, "GRAIN", 1)
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(3, 5, 700, generator=generator)
    a, to_k = torch.randn(2, 2, *low.shape, generator=generator)
    carried, to_intercepts = torch.randn(2, 2, *low.shape[1:], generator=generator)
    follow = torch.rand(2, 5, 701, generator=generator).argsort(2)[..., :700]
    dynamics = by_step(LIF(torch.linspace(0.25, 1, 700), 0.75).dynamics().mapped(Tensor.detach), low.shape)
    arrays = a, carried, low, low + 0.5, dynamics
    b, lines = held_case(0, LIF(0.3, 0.25), 0.0, torch.float32, (2, 4, 2, 400))

    def found() -> list[Tensor]:
        scanned = [Fused().joint_scan(*arrays, places) for places in (None, follow)]
        gradient = Fused().joint_gradient(*arrays, None, scanned[0].slopes, Scanned(to_k, to_intercepts))
        line = Fused().held_line(b, lines.trains, lines.points)
        return [*scanned[0], *scanned[1], *gradient, *line, Fused().missed(a, low)]

    expected = found()
    torch.set_num_threads(3)
    several = found()
    torch.set_num_threads(1)
    check_same(several, expected)
