"""Lines below what one neuron does, on dense grids against the function itself.

One interval is one sample with a single neuron, ``membranes [T, B, 1]``, so that the intercepts, which are
sums over a sample, stay apart. Everything is computed in float64 unless a test says otherwise.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from dynamics import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from relaxations import DOUBLE, EPS, MAKERS, Make, neuron, with_midpoint, with_slack
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.linear.relaxation import joint, separate
from certsnn.neurons import Dynamics

LEAST = math.sqrt(EPS)
"""Unstable intervals are widened to this share of the threshold on their longer side."""


@dataclass(frozen=True)
class Case:
    """Intervals ``[B]`` of one kind of neuron, coefficients ``a, c [S]``: all pairs are looked at."""

    dynamics: Dynamics
    low: Tensor
    high: Tensor
    a: Tensor
    c: Tensor

    @property
    def membranes(self) -> Interval:
        return Interval(self.low[None, :, None], self.high[None, :, None])

    def forms(self) -> tuple[Tensor, Tensor]:
        """a and c as ``[S, T=1, B, 1]``."""
        shape = (len(self.a), 1, len(self.low), 1)
        return self.a.view(-1, 1, 1, 1).expand(shape), self.c.view(-1, 1, 1, 1).expand(shape)

    def below(self, u: Tensor) -> Tensor:
        """What f would be, were the neuron silent, ``[S, ...]``, for u ``[...]``."""
        return self._rows(self.c, u) * self.dynamics.decay.double() * u.double()

    def above(self, u: Tensor) -> Tensor:
        """The same, did it fire."""
        carried = self.dynamics.gain.double() * u.double() + self.dynamics.offset.double()
        return self._rows(self.a, u) + self._rows(self.c, u) * carried

    def _rows(self, values: Tensor, u: Tensor) -> Tensor:
        return values.double().view(-1, *[1] * u.ndim)

    def points(self, count: int) -> tuple[Tensor, Tensor]:
        """Points ``[G, B]`` that cover the intervals, the end points and threshold among them, and f there.

        f ``[S, G, B]`` is discontinuous: at the threshold its limit from below is the last point's value.
        """
        threshold = self.dynamics.threshold.to(self.low)
        part = torch.linspace(0, 1, count, dtype=self.low.dtype)[:, None]
        inner = (self.low + part * (self.high - self.low)).clamp(self.low, self.high)
        around = 1 + torch.tensor([-1e-3, -1e-9, 0, 1e-9, 1e-3], dtype=DOUBLE)[:, None]
        near = (threshold.double() * around).to(self.low)
        u = torch.cat([inner, self.high[None], near.clamp(self.low, self.high)])
        f = torch.where(u >= threshold, self.above(u), self.below(u))
        # From below the threshold only where the interval reaches below it.
        limit = threshold.expand_as(self.low).clamp(self.low, self.high)
        reached = (self.low < threshold) & (self.high >= threshold)
        at_limit = self.below(limit)
        last = torch.where(reached, at_limit, f[:, -1])
        return torch.cat([u, torch.where(reached, limit, u[-1])[None]]), torch.cat([f, last[:, None]], 1)

    def line(self, make: Make) -> tuple[Tensor, Tensor]:
        """Slopes and intercepts ``[S, B]``."""
        a, c = self.forms()
        lines = make(self.membranes, self.dynamics)
        assert lines.steps == 1
        k = lines.slopes(0, a[:, 0], c[:, 0])
        return k[..., 0], lines.intercepts(0, a[:, 0], c[:, 0], k)[..., 0]

    def scale(self, k: Tensor) -> Tensor:
        """The magnitude ``[S, B]`` of the numbers that f and a line with the slope k are made of."""
        size = torch.stack(
            [self.low.abs(), self.high.abs(), self.dynamics.threshold.expand_as(self.low)]
        ).amax(0)
        reach = torch.maximum(self.dynamics.decay, self.dynamics.gain) * size + self.dynamics.offset.abs()
        return self.a.abs()[:, None] + self.c.abs()[:, None] * reach + k.abs() * size

    @property
    def silent(self) -> Tensor:
        return self.high < self.dynamics.threshold

    @property
    def firing(self) -> Tensor:
        return self.low >= self.dynamics.threshold

    @property
    def unstable(self) -> Tensor:
        return ~self.silent & ~self.firing

    @property
    def longer(self) -> Tensor:
        """The longer part of the interval on one side of the threshold."""
        return torch.maximum(self.dynamics.threshold - self.low, self.high - self.dynamics.threshold)

    @property
    def shorter(self) -> Tensor:
        return torch.minimum(self.dynamics.threshold - self.low, self.high - self.dynamics.threshold)


PLACES = [0.0, -1.0, -0.5, 0.5, 1.0, 3.0, -3.0, 100.0, -100.0, 0.01, -0.01]


TINY = [LEAST, -LEAST, 0.9 * LEAST, -1.1 * LEAST, 1e-10, -1e-10, 3e-16, -3e-16, 1e-5, -1e-5]


number = st.floats(-1e3, 1e3, allow_subnormal=False)


coefficient = st.sampled_from([0.0, 1.0, -1.0, 1e6, -1e6, 1e-6]) | number


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Intervals around one threshold (in units of it), degenerate ones among them."""
    threshold = draw(st.sampled_from([1.0, 0.3, 7.0, 1e-6]))
    decay = draw(st.sampled_from([0.5, 0.0, 1.0]) | st.floats(0, 1, allow_subnormal=False))
    gain = draw(st.sampled_from([0.0, 0.5, 1.0, 1.7]) | st.floats(0, 3, allow_subnormal=False))
    offset = threshold * draw(st.sampled_from([0.0, -0.5, -1.0, 0.5, 1.5, -20.0]) | number)
    place = st.sampled_from(PLACES) | st.sampled_from(TINY) | st.floats(-5, 5, allow_subnormal=False)
    places = draw(st.lists(place, min_size=2, max_size=6))
    values = threshold * (1 + torch.tensor(places, dtype=DOUBLE))
    pairs = list(itertools.product(sorted(values.tolist()), repeat=2))
    low, high = torch.tensor([(low, high) for low, high in pairs if low <= high], dtype=DOUBLE).T
    rows = st.lists(st.tuples(coefficient, coefficient), min_size=1, max_size=4)
    a, c = torch.tensor(draw(rows), dtype=DOUBLE).T
    return Case(neuron(threshold, decay, gain, offset), low, high, a, c)


slacks = st.tuples(*[st.sampled_from([0.0, 1.0]) | st.floats(0, 1, allow_subnormal=False)] * 2)


@settings(max_examples=50)
@given(cases(), slacks)
def test_every_line_is_below_the_function(case: Case, slack: tuple[float, float]) -> None:
    u, f = case.points(41)
    for name, make in {**MAKERS, "chosen drawn": with_slack(*slack)}.items():
        k, constant = case.line(make)
        assert k.isfinite().all() and constant.isfinite().all(), name
        above = (k[:, None] * u + constant[:, None] - f).amax(1)
        assert (above <= 16 * EPS * case.scale(k)).all(), name


@settings(max_examples=50)
@given(cases(), slacks)
def test_lines_of_stable_neurons_are_exact(case: Case, slack: tuple[float, float]) -> None:
    a, c = case.a[:, None], case.c[:, None]
    slope = torch.where(case.silent, c * case.dynamics.decay, c * case.dynamics.gain)
    intercept = torch.where(case.silent, torch.zeros_like(c), a + c * case.dynamics.offset)
    stable = case.silent | case.firing
    for name, make in {**MAKERS, "chosen drawn": with_slack(*slack)}.items():
        k, constant = case.line(make)
        tolerance = 16 * EPS * case.scale(k)
        assert ((k - slope).abs() <= 4 * EPS * slope.abs())[:, stable].all(), name
        assert ((constant - intercept).abs() <= tolerance)[:, stable].all(), name


def envelope(u: Tensor, f: Tensor, at: Tensor) -> Tensor:
    """The convex envelope ``[S, B]`` of points ``u [G, B]``, ``f [S, G, B]``: the least chord over ``at``."""
    left, right = u[:, None], u[None]
    width = (right - left).clamp_min(1e-300)
    part = ((at - left) / width).clamp(0, 1)
    chords = f[:, :, None] + part * (f[:, None] - f[:, :, None])
    covering = (left <= at) & (at <= right) & (right > left)
    on = (u == at)[None] & torch.ones_like(f, dtype=torch.bool)
    best = chords.masked_fill(~covering, torch.inf).amin((1, 2))
    return torch.minimum(best, f.masked_fill(~on, torch.inf).amin(1))


@settings(max_examples=50)
@given(cases())
def test_the_joint_line_touches_the_convex_envelope_at_the_midpoint(case: Case) -> None:
    u, f = case.points(13)
    middle = (case.low + case.high) / 2
    k, constant = case.line(joint)
    value, best = k * middle + constant, envelope(u, f, middle)
    tolerance = 64 * EPS * case.scale(k)
    assert (value <= best + tolerance).all()
    wide = ~case.unstable | (case.longer >= LEAST * case.dynamics.threshold)
    assert (value >= best - tolerance)[:, wide].all()
    # Narrower ones lose no more than what the function does on the width that is added.
    steep = case.c.abs()[:, None] * torch.maximum(case.dynamics.decay, case.dynamics.gain)
    least = torch.minimum(torch.minimum(f.amin(1), case.below(case.low)), case.above(case.high))
    assert (value >= least - 2 * steep * LEAST * case.dynamics.threshold - tolerance).all()


@settings(max_examples=50)
@given(cases())
def test_the_joint_line_is_at_least_as_high_as_the_separate_ones_at_the_midpoint(case: Case) -> None:
    middle = (case.low + case.high) / 2
    (k, constant), (other, start) = case.line(joint), case.line(separate)
    tolerance = 1e-12 * (case.scale(k) + case.scale(other))
    assert (k * middle + constant >= other * middle + start - tolerance).all()


@settings(max_examples=50)
@given(cases())
def test_no_share_of_the_slopes_is_interval_arithmetic(case: Case) -> None:
    _, f = case.points(3)
    for mix in (0.0, 0.5, 1.0):
        k, constant = case.line(with_slack(0.0, mix))
        assert (k[:, case.unstable] == 0).all()
        widened = case.c.abs()[:, None] * torch.maximum(case.dynamics.decay, case.dynamics.gain)
        tolerance = 2 * LEAST * case.dynamics.threshold * widened + 16 * EPS * case.scale(k)
        assert ((constant - f.amin(1)).abs() <= tolerance)[:, case.unstable].all()


@settings(max_examples=50)
@given(cases())
def test_the_midpoint_slack_is_the_joint_relaxation(case: Case) -> None:
    (k, constant), (other, start) = case.line(joint), case.line(with_midpoint)
    wide = ~case.unstable | (case.shorter >= LEAST * case.dynamics.threshold)
    # Slopes come from rises over widths; both are rounded.
    size = case.scale(k) / torch.maximum(case.longer, case.dynamics.threshold * LEAST)
    assert ((k - other).abs() <= 64 * EPS * size)[:, wide].all()
    assert ((constant - start).abs() <= 256 * EPS * case.scale(k))[:, wide].all()


@settings(max_examples=50)
@given(cases())
def test_the_slack_reaches_both_segments_of_the_envelope(case: Case) -> None:
    """With mix = 0 the line touches the envelope left of the threshold, with mix = 1 right of it."""
    u, f = case.points(13)
    wide = case.unstable & (case.shorter >= 1e-6 * case.dynamics.threshold)
    for mix, end in ((0.0, case.low), (1.0, case.high)):
        at = (end + case.dynamics.threshold) / 2
        k, constant = case.line(with_slack(1.0, mix))
        gap = (k * at + constant - envelope(u, f, at)).abs()
        assert (gap <= 256 * EPS * case.scale(k))[:, wide].all()


def test_by_hand() -> None:
    """Reset to zero, decay 1/2, threshold 1, u in [0, 3] and [-2, 2] (left), a = 1, c = 2: f = u, then 1."""
    case = Case(
        neuron(1.0, 0.5, 0.0, 0.0),
        torch.tensor([0.0, -2.0, 0.0], dtype=DOUBLE),
        torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE),
        torch.tensor([1.0, -1.0], dtype=DOUBLE),
        torch.tensor([2.0, 2.0], dtype=DOUBLE),
    )
    # a = 1: from (0, 0) to (3, 1); from (-2, -2) to (2, 1); along u itself.
    # a = -1: f = u, then -1, so it falls to -1 at the threshold, and is level afterwards (or before: chord).
    k, constant = case.line(joint)
    torch.testing.assert_close(k, torch.tensor([[1 / 3, 3 / 4, 1.0], [0.0, 1 / 4, -1.0]], dtype=DOUBLE))
    torch.testing.assert_close(constant, torch.tensor([[0.0, -0.5, 0.0], [-1.0, -1.5, 0.0]], dtype=DOUBLE))
    # The published lines. [0, 3]: s >= (u - 1) / 2, s <= 1; 0 <= v <= u / 2.
    k, constant = case.line(separate)
    torch.testing.assert_close(k[:, 0], torch.tensor([0.5, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(constant[:, 0], torch.tensor([-0.5, -1.0], dtype=DOUBLE))
    # [-2, 2]: s >= 0, s <= (u + 2) / 3; v from (-2, -1) to (2, 0), that is (u - 2) / 4.
    torch.testing.assert_close(k[:, 1], torch.tensor([0.5, 0.5 - 1 / 3], dtype=DOUBLE))
    torch.testing.assert_close(constant[:, 1], torch.tensor([-1.0, -1 - 2 / 3], dtype=DOUBLE))


# The dtypes of verification and of training.


@settings(max_examples=50)
@given(
    st.sampled_from([0.1, 0.3, 0.7, 1.0, 1e-6]),
    st.sampled_from([0.9, 0.3, 0.1, 1.0]),
    st.sampled_from([0.3, 0.9, 1.7, 0.0]),
    st.sampled_from([0.1, -0.3, 1e-9, 0.0]),
    st.lists(st.floats(-3, 3, width=32, allow_subnormal=False), min_size=2, max_size=4),
    st.lists(st.tuples(coefficient, coefficient), min_size=1, max_size=3),
)
def test_float32_neurons_in_float64_bounds(
    threshold: float,
    decay: float,
    gain: float,
    offset: float,
    places: list[float],
    rows: list[tuple[float, float]],
) -> None:
    """The numbers of a float32 neuron are taken as they are: no product of them is rounded to float32."""
    dynamics = neuron(threshold, decay, gain, offset, dtype=torch.float32)
    ends = (dynamics.threshold * (1 + torch.tensor(places))).double()
    pairs = torch.cartesian_prod(ends, ends)
    low, high = pairs[pairs[:, 0] <= pairs[:, 1]].T
    a, c = torch.tensor(rows, dtype=DOUBLE).T
    case = Case(dynamics, low, high, a, c)
    u, f = case.points(41)
    for name, make in MAKERS.items():
        k, constant = case.line(make)
        assert k.dtype == constant.dtype == DOUBLE, name
        above = (k[:, None] * u + constant[:, None] - f).amax(1)
        assert (above <= 16 * EPS * case.scale(k)).all(), name


@settings(max_examples=50)
@given(cases(), slacks)
def test_in_float32_lines_exceed_the_function_by_rounding_only(
    case: Case, slack: tuple[float, float]
) -> None:
    single = changed(case.dynamics, Tensor.float)
    low, high = case.low.float(), case.high.float()
    case = Case(single, low, high, case.a.float(), case.c.float())
    u, f = case.points(41)
    for name, make in {**MAKERS, "chosen drawn": with_slack(*slack)}.items():
        k, constant = case.line(make)
        above = (k[:, None].double() * u.double() + constant[:, None].double() - f).amax(1)
        assert (above <= 32 * torch.finfo(torch.float32).eps * case.scale(k)).all(), name
