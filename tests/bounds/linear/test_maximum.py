"""Lines below and above maxima: sound at every corner, exact where one input dominates, best on average."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn.functional import conv1d

from certsnn.bounds.interval.arithmetic import RIGOROUS, Interval
from certsnn.bounds.linear.maximum import Maxima, maxima
from certsnn.pooling import MaxPool, max_pool_of

DOUBLE = torch.float64
POOLS: dict[str, tuple[nn.MaxPool1d | nn.MaxPool2d, tuple[int, ...]]] = {
    "one window": (nn.MaxPool1d(4), (4,)),
    "overlapping": (nn.MaxPool1d(3, stride=1, padding=1), (5,)),
    "dilated": (nn.MaxPool1d(2, stride=1, dilation=3, padding=1), (5,)),
    "left over": (nn.MaxPool1d(2, stride=3), (6,)),
    "ceil": (nn.MaxPool1d(3, stride=2, ceil_mode=True), (6,)),
    "maps": (nn.MaxPool2d(2, stride=1, padding=1), (2, 3)),
    "single inputs": (nn.MaxPool1d(1), (3,)),
}


def box(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Interval:
    """Random bounds, a third of them of single points, or of spikes that may and may not fire."""
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(shape, generator=generator, dtype=dtype)
    width = 2 * torch.rand(shape, generator=generator, dtype=dtype)
    kind = torch.rand(shape, generator=generator)
    width = torch.where(kind < 0.2, 0, width)
    spikes = kind > 0.8
    return Interval(torch.where(spikes, 0, lower), torch.where(spikes, 1, lower + width))


def corners(bounds: Interval) -> Tensor:
    """All corners ``[M, F, B, C, ...]`` of each map's box, the same choice in all maps."""
    size = bounds.lower.shape[3:]
    choice = torch.tensor(list(product((False, True), repeat=size.numel()))).view(-1, 1, 1, 1, *size)
    return torch.where(choice, bounds.upper, bounds.lower)


def members(bounds: Interval) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    share = torch.rand(200, *bounds.lower.shape, generator=generator, dtype=bounds.lower.dtype)
    return torch.cat([corners(bounds), bounds.lower + share * (bounds.upper - bounds.lower)])


def forms(a: Tensor, values: Tensor) -> Tensor:
    """``[M, S, B]``: forms with the coefficients ``a [S, F, B, ...]`` of values ``[M, F, B, ...]``."""
    return (a * values[:, None]).flatten(4).sum((2, 4))


def below(lines: Maxima, a: Tensor, x: Tensor) -> Tensor:
    """The lower bounds ``[M, S, B]`` of forms of the maxima, at inputs ``[M, F, B, ...]``."""
    inputs, constant = lines.pull(a)
    return forms(inputs, x) + constant


def applied(pool: MaxPool, x: Tensor) -> Tensor:
    """The maxima ``[M, F, B, C, ...]``."""
    maxima = pool.apply(x.flatten(0, 2))
    return maxima.view(*x.shape[:3], *maxima.shape[1:])


def coefficients(pool: MaxPool, bounds: Interval, rows: int = 6) -> Tensor:
    shape = applied(pool, bounds.lower[None]).shape[1:]
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, *shape, generator=generator, dtype=bounds.lower.dtype)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", POOLS)
def test_forms_are_below_at_every_corner_and_inside(name: str, seed: int) -> None:
    layer, size = POOLS[name]
    pool, bounds = max_pool_of(layer), box(2, 3, 2, *size, seed=seed)
    x, a, lines = members(bounds), coefficients(pool, bounds), maxima(pool, bounds)
    gap = forms(a, applied(pool, x)) - below(lines, a, x)
    assert (gap >= -lines.lost(a)).all()
    assert gap.min(0).values.max() < 12  # it says something
    # The bound of each window alone is met by some corner.
    windows = a[0, 0, 0, 0].numel()
    for sign in (1.0, -1.0):
        one = a.new_zeros(windows, *a.shape[1:4], windows)
        one[:, 0, 0, 0] = sign * torch.eye(windows, dtype=DOUBLE)
        one = one.view(-1, *a.shape[1:])
        met = forms(one, applied(pool, corners(bounds))) - below(lines, one, corners(bounds))
        assert (met[..., 0].amin(0) <= 1e-6).all()
        assert (met >= -lines.lost(one)).all()  # nothing but that window's rounding


@pytest.mark.parametrize("name", POOLS)
def test_points_and_dominating_inputs_are_exact(name: str) -> None:
    layer, size = POOLS[name]
    pool, point = max_pool_of(layer), box(2, 2, 1, *size).lower
    # Bounds of the ranks of the inputs overlap nowhere, so one input of each window dominates.
    rank = point.flatten(3).argsort(-1).argsort(-1).view(point.shape).to(DOUBLE)
    for bounds in (Interval(point, point), Interval(rank, rank + 0.9)):
        x, a, lines = members(bounds), coefficients(pool, bounds), maxima(pool, bounds)
        torch.testing.assert_close(below(lines, a, x), forms(a, applied(pool, x)))
    assert set(lines.slope.unique().tolist()) == {1.0} and not lines.intercept.any()


def test_by_hand() -> None:
    """The window [0, 4], [1, 3], [-1, 2]: above by 3 + (4 - 3) / 4 x_0, below by either midpoint of 2."""
    pool = max_pool_of(nn.MaxPool1d(3))
    low, high = torch.tensor([[0.0, 1, -1], [4, 3, 2]], dtype=DOUBLE).view(2, 1, 1, 1, 3)
    lines = maxima(pool, Interval(low, high))
    inputs, constant = lines.pull(torch.tensor([2.0, -2.0], dtype=DOUBLE).view(2, 1, 1, 1, 1))
    assert inputs.flatten(1).tolist() == [[2, 0, 0], [-0.5, 0, 0]]
    assert constant.tolist() == [[0], [-6]]
    ends = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    spikes = maxima(pool, Interval(*(end.expand(1, 1, 1, 3) for end in ends)))
    assert float(spikes.slope) == 0 and float(spikes.intercept) == 1  # an OR of spikes is at most 1


@pytest.mark.parametrize("seed", range(20))
def test_no_other_line_is_closer_on_average(seed: int) -> None:
    """A linear programme over all linear bounds: the mean over a box is the value in its centre."""
    pool, bounds = max_pool_of(nn.MaxPool1d(4)), box(1, 1, 1, 4, seed=100 + seed)
    lines, centre = maxima(pool, bounds), (bounds.lower + bounds.upper)[None] / 2
    one = torch.ones(1, 1, 1, 1, 1, dtype=DOUBLE)
    ours = -float(below(lines, -one, centre))
    every = corners(bounds).flatten(1).numpy()
    rows = np.concatenate([every, np.ones((len(every), 1))], 1)
    cost = np.append(centre.flatten().numpy(), 1.0)
    best = linprog(cost, A_ub=-rows, b_ub=-every.max(1), bounds=(None, None))
    assert best.status == 0
    assert ours == pytest.approx(best.fun, abs=1e-6)
    # A line below is at most the maximum of the centre there, and ours is that.
    assert float(below(lines, one, centre)) == pytest.approx(float(centre.max()))


def test_the_bound_above_is_nowhere_above_the_greatest_upper_bound() -> None:
    pool, bounds = max_pool_of(nn.MaxPool1d(4)), box(5, 20, 2, 4)
    lines = maxima(pool, bounds)
    assert (lines.slope >= 0).all()
    at_top = lines.slope * bounds.upper.amax(-1, keepdim=True) + lines.intercept
    assert (at_top <= bounds.upper.amax(-1, keepdim=True) + 1e-9).all()


def test_inputs_that_are_held_add_up_and_fewer_steps_are_fewer() -> None:
    pool, bounds = max_pool_of(nn.MaxPool1d(2, 1)), box(1, 2, 1, 4)
    a = torch.randn(3, 5, 2, 1, 3, dtype=DOUBLE)
    inputs, constant = maxima(pool, bounds).pull(a)
    summed = maxima(pool, bounds).pull(a.sum(1, keepdim=True))
    assert inputs.shape == (3, 1, 2, 1, 4)
    torch.testing.assert_close((inputs, constant), tuple(summed))
    stepped = maxima(pool, box(5, 2, 1, 4))
    first = stepped.pull(a[:, :2])
    zeros = torch.cat([a[:, :2], torch.zeros_like(a[:, 2:])], 1)
    torch.testing.assert_close(first.inputs, stepped.pull(zeros).inputs[:, :2])
    torch.testing.assert_close(first.constant, stepped.pull(zeros).constant)


@pytest.mark.parametrize("name", POOLS)
def test_gradients_reach_bounds_and_coefficients(name: str) -> None:
    layer, size = POOLS[name]
    pool = max_pool_of(layer)
    lower = torch.randn(2, 1, 1, *size, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    width = torch.rand(lower.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(4)) + 0.1
    a = coefficients(pool, Interval(lower, lower), 2)
    leaves = [value.requires_grad_() for value in (lower, width, a)]

    def bound(lower: Tensor, width: Tensor, a: Tensor) -> tuple[Tensor, ...]:
        return tuple(maxima(pool, Interval(lower, lower + width)).pull(a))

    assert torch.autograd.gradcheck(bound, leaves)


def test_windows_first_used_without_gradients_have_gradients_later() -> None:
    pool, bounds = max_pool_of(nn.MaxPool1d(2, 1)), box(1, 1, 1, 11)
    with torch.inference_mode():
        maxima(pool, bounds)
    upper = bounds.upper.clone().requires_grad_()
    a = torch.ones(1, 1, 1, 1, 10, dtype=DOUBLE)
    maxima(pool, Interval(bounds.lower, upper)).pull(-a).constant.sum().backward()
    assert upper.grad is not None


@pytest.mark.parametrize("width", [0.0, 1e-30, 1e-8, 1e-5])
@pytest.mark.parametrize("at", [0.0, 1.0, -1000.0])
def test_gradients_are_finite_at_the_narrowest_bounds(width: float, at: float) -> None:
    """float32, as in training whose radius starts at 0: two inputs as good as equal."""
    low = torch.full((1, 1, 1, 3), at).requires_grad_()
    high = torch.tensor([0.0, width, width / 2]).view(1, 1, 1, 3).add(at).requires_grad_()
    lines = maxima(max_pool_of(nn.MaxPool1d(3)), Interval(low, high))
    inputs, constant = lines.pull(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1))
    ((inputs.flatten(1) * at).sum(1) + constant.flatten()).sum().backward()
    for end in (low, high):
        assert end.grad is not None and end.grad.abs().max() < 1e4


def test_executed_networks_are_bounded_with_their_rounding() -> None:
    """float32 weights, a maximum, weights: forms of the executed outputs over a ball, ties included."""
    torch.manual_seed(0)
    first, pool = nn.Conv1d(2, 3, 3, padding=1), MaxPool((2,), (1,), (0,), (1,), False)
    with torch.no_grad():
        first.weight.copy_((10 * first.weight).round() / 10)  # tenths: many ties, none of them exact
        x0 = (10 * torch.rand(4, 2, 6)).round() / 10
        x = x0 + 0.1 * (2 * torch.rand(500, *x0.shape) - 1)
        x = torch.cat([x, x0 + 0.1 * (x - x0).sign()])
        executed = pool.apply(first(x.flatten(0, 1))).unflatten(0, x.shape[:2]).double()
        exact = copy.deepcopy(first).double()
        centre = exact(x0.double())
        reach = conv1d(torch.full_like(x0, 0.1000001).double(), exact.weight.abs(), padding=1)
        bounds = Interval((centre - reach - 1e-5)[None], (centre + reach + 1e-5)[None])
        lines, a = maxima(pool, bounds), torch.randn(5, 1, 4, 3, 5, dtype=DOUBLE)
        k, constant = lines.pull(a)
        currents = exact(x.double().flatten(0, 1)).unflatten(0, x.shape[:2])
        rounding = (k[:, 0].abs() * RIGOROUS.gamma(6) * 10).flatten(2).sum(2)
        floor = torch.einsum("sbcl,mbcl->msb", k[:, 0], currents) + constant - lines.lost(a) - rounding
        found = torch.einsum("sbcl,mbcl->msb", a[:, 0], executed)
    assert (found >= floor).all()
    assert (found - floor).amin(0).max() < 3
