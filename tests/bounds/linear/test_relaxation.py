"""Lines below what one neuron does: on dense grids against the function itself, then over the steps.

One interval is one sample with a single neuron, ``membranes [T, B, 1]``, so that the intercepts, which are
sums over a sample, stay apart. Everything is computed in float64 unless a test says otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from dynamics import changed, dynamics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from certsnn.bounds.interval.arithmetic import Interval
from certsnn.bounds.interval.scans import scan_steps
from certsnn.bounds.linear.alpha import Slack, chosen_slopes, midpoint
from certsnn.bounds.linear.lines import Stepwise, scan_back
from certsnn.bounds.linear.relaxation import RELAXATIONS, joint, separate
from certsnn.neurons import Dynamics, scan

DOUBLE = torch.float64
EPS = torch.finfo(DOUBLE).eps
LEAST = math.sqrt(EPS)
"""Unstable intervals are widened to this share of the threshold on their longer side."""

Make = Callable[[Interval, Dynamics], Stepwise]


def neuron(
    threshold: float,
    decay: float,
    gain: float,
    offset: float,
    initial: float = 0.0,
    dtype: torch.dtype = DOUBLE,
) -> Dynamics:
    numbers = (torch.tensor(value, dtype=dtype) for value in (threshold, decay, initial, gain, offset))
    return dynamics_of(numbers, decay == gain == 1)


def with_slack(share: float, mix: float) -> Make:
    """`chosen_slopes` with the same slack everywhere."""

    def make(membranes: Interval, dynamics: Dynamics) -> Stepwise:
        one = torch.ones_like(membranes.lower)[:, None]
        return chosen_slopes(membranes, dynamics, Slack(share * one, mix * one))

    return make


def with_midpoint(membranes: Interval, dynamics: Dynamics) -> Stepwise:
    return chosen_slopes(membranes, dynamics, midpoint(membranes, dynamics))


CHOSEN = {
    f"chosen {share:g} {mix:g}": with_slack(share, mix)
    for share, mix in ((0, 0), (1, 0), (1, 1), (1, 0.5), (0.3, 0.7), (0.9, 0.1))
}
MAKERS: dict[str, Make] = {
    "joint": joint,
    "separate": separate,
    "chosen midpoint": with_midpoint,
    **CHOSEN,
}


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
        return k[..., 0], lines.constant(0, a[:, 0], c[:, 0], k)

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


# Over all steps.


def train(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)[:, None, None]


@dataclass(frozen=True)
class Run:
    """Neurons over T steps: currents within ``box [T, B, n]``, and bounds of the membranes."""

    dynamics: Dynamics
    box: Interval
    membranes: Interval

    def trains(self, count: int, generator: torch.Generator) -> Tensor:
        """Currents ``[T, B * count, n]`` in the box: corners, the inside, ones that meet the threshold."""
        low, high = (end.repeat_interleave(count, 1) for end in self.box)
        part = torch.rand(low.shape, dtype=DOUBLE, generator=generator)
        corner = torch.rand(low.shape, generator=generator) < 0.5
        part = torch.where(corner, part.round(), part)
        currents = low + part * (high - low)
        meeting = torch.rand(low.shape, generator=generator) < 0.3
        v = self.dynamics.initial.expand(low.shape[1:])
        rows = []
        for t in range(len(low)):
            to_threshold = (self.dynamics.threshold - v).clamp(low[t], high[t])
            rows.append(torch.where(meeting[t], to_threshold, currents[t]))
            v = self.carried(v + rows[t])
        return torch.stack(rows)

    def carried(self, u: Tensor) -> Tensor:
        threshold, decay, _, gain, offset = self.dynamics.numbers()
        return torch.where(u >= threshold, gain * u + offset, decay * u)


def run(seed: int, steps: int, batch: int, shape: tuple[int, ...], narrow: bool = False) -> Run:
    """Random neurons and boxes, with membranes from the interval scan."""
    generator = torch.Generator().manual_seed(seed)

    def one(*options: float) -> float:
        return options[int(torch.randint(len(options), (), generator=generator))]

    threshold = one(1.0, 0.3)
    reset = ((0.0, 0.0), (0.5, -0.5), (1.0, -1.0), (0.0, 0.4), (0.0, -0.4), (1.3, 0.2))[int(one(*range(6)))]
    initial = threshold * one(0.0, 0.5, -0.5, 1.0)
    dynamics = neuron(threshold, one(0.5, 0.9, 1.0, 0.0), reset[0], reset[1] * threshold, initial)
    size = (steps, batch, *shape)
    centre = threshold * (2 * torch.rand(size, dtype=DOUBLE, generator=generator) - 0.7)
    radius = threshold * torch.rand(size, dtype=DOUBLE, generator=generator) * (0.05 if narrow else 0.7)
    box = Interval(centre - radius, centre + radius)
    return Run(dynamics, box, scan_steps(box, dynamics).membranes)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_pulled_forms_are_below_what_the_neurons_do(name: str, steps: int) -> None:
    """sum a s + carried v_T >= sum k I + constant, for currents anywhere in the box."""
    count, rows = 200, 12
    for seed in range(30):
        case = run(seed, steps, batch=4, shape=(), narrow=seed % 2 == 1)
        lines = MAKERS[name](*one_neuron(case))
        generator = torch.Generator().manual_seed(seed)
        currents = case.trains(count, generator)
        trace = scan(currents, case.dynamics)
        assert (trace.membranes >= case.membranes.lower.repeat_interleave(count, 1) - 1e-12).all()
        a = torch.randn(rows, steps, 4, 1, dtype=DOUBLE, generator=generator)
        carried = torch.randn(rows, 4, 1, dtype=DOUBLE, generator=generator)
        a[: rows // 3] = 0
        carried[-rows // 3 :] = 0
        for spikes_too in (a, None):
            k, constant = lines.pull_carried(spikes_too, carried)
            assert k.shape == a.shape and constant.shape == (rows, 4)
            spikes, final = (
                values.unflatten(-1, (4, count))
                for values in (trace.spikes, case.carried(trace.membranes[-1]))
            )
            done = carried * final
            if spikes_too is not None:
                done = done + torch.einsum("stb,tbm->sbm", a[..., 0], spikes)
            line = torch.einsum("stb,tbm->sbm", k[..., 0], currents.unflatten(-1, (4, count)))
            size = 1 + k.abs().sum((1, 3)) + a.abs().sum((1, 3))
            assert (line + constant[..., None] <= done + 1e-13 * size[..., None]).all()


def one_neuron(case: Run) -> tuple[Interval, Dynamics]:
    """The membranes ``[T, B]`` as ``[T, B, 1]``."""
    return Interval(*(end[..., None] for end in case.membranes)), case.dynamics


def test_pulled_forms_by_hand() -> None:
    """Two stable steps: silent, then firing with subtraction. u_1 = i + I_1, u_2 = d u_1 + I_2."""
    dynamics = neuron(1.0, 0.5, 0.5, -0.5, initial=0.25)
    membranes = Interval(train(0.0, 1.0), train(0.5, 2.0))
    a, carried = train(3.0, 5.0)[None], torch.full((1, 1, 1), 8.0, dtype=DOUBLE)
    for make in MAKERS.values():
        k, constant = make(membranes, dynamics).pull_carried(a, carried)
        # v_2 = 0.5 u_2 - 0.5; the coefficient on u_2 is 4, on u_1 it is 2.
        assert k.flatten().tolist() == [2.0, 4.0]
        assert float(constant) == pytest.approx(5 + 8 * -0.5 + 2 * 0.25)


# Some steps, some neurons.

SHAPE = (2, 3)
ROWS = 5
KINDS = ["joint", "separate", "chosen, shared by rows", "chosen for each row"]


def slack_for(membranes: Interval, rows: int) -> Slack:
    generator = torch.Generator().manual_seed(1)
    steps, *shape = membranes.lower.shape
    share, mix = torch.rand(2, steps, rows, *shape, dtype=DOUBLE, generator=generator)
    return Slack(share, mix)


def of_kind(kind: str, membranes: Interval, dynamics: Dynamics, slack: Slack) -> Stepwise:
    if kind in RELAXATIONS:
        return RELAXATIONS[kind](membranes, dynamics)
    return chosen_slopes(membranes, dynamics, slack)


def coefficients(steps: int, batch: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(ROWS, steps, batch, *shape, dtype=DOUBLE, generator=generator)
    return a, torch.randn(ROWS, batch, *shape, dtype=DOUBLE, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_first_steps_are_those_of_the_whole(kind: str, steps: int) -> None:
    case = run(3, 4, 2, SHAPE)
    slack = slack_for(case.membranes, ROWS if kind.endswith("row") else 1)
    a, carried = coefficients(steps, 2, SHAPE)
    cut = Interval(case.membranes.lower[:steps], case.membranes.upper[:steps])
    expected = of_kind(kind, cut, case.dynamics, Slack(slack.share[:steps], slack.mix[:steps]))
    found = of_kind(kind, case.membranes, case.dynamics, slack).until(steps)
    for spikes_too in (a, None):
        for one, other in zip(
            found.pull_carried(spikes_too, carried), expected.pull_carried(spikes_too, carried), strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_lines_of_one_neuron_are_those_of_the_layer(kind: str) -> None:
    steps, batch = 3, 2
    case = run(4, steps, batch, SHAPE)
    generator = torch.Generator().manual_seed(0)
    column = torch.randint(math.prod(SHAPE), (ROWS, batch), generator=generator)
    lines = RELAXATIONS[kind](case.membranes, case.dynamics).at(column)
    a, carried = coefficients(steps, batch, (1,))
    for spikes_too in (a, None):
        k, constant = lines.pull_carried(spikes_too, carried)
        assert k.shape == (ROWS, steps, batch, 1) and constant.shape == (ROWS, batch)
        for row, sample in itertools.product(range(ROWS), range(batch)):

            def single(values: Tensor, row: int = row, sample: int = sample) -> Tensor:
                flat = values.flatten(values.ndim - len(SHAPE))[..., sample, column[row, sample]]
                return flat[..., None, None]

            alone = RELAXATIONS[kind](Interval(*(single(end) for end in case.membranes)), case.dynamics)
            expected = alone.pull_carried(
                None if spikes_too is None else spikes_too[row : row + 1, :, sample : sample + 1],
                carried[row : row + 1, sample : sample + 1],
            )
            torch.testing.assert_close(k[row, :, sample], expected.currents[0, :, 0])
            torch.testing.assert_close(constant[row, sample], expected.constant[0, 0])


def followed(steps: int, neurons: int) -> list[Tensor]:
    """Where the neurons of each step are at the next: shuffled, one of them gone."""
    generator = torch.Generator().manual_seed(3)
    places = [torch.randperm(neurons, generator=generator).repeat(2, 1) for _ in range(steps - 1)]
    return [place.masked_fill(place == t % neurons, neurons) for t, place in enumerate(places)]


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_fused_scan_is_the_scan_step_by_step(steps: int, shared: bool, tracked: bool) -> None:
    """Values, and gradients towards coefficients and slacks, with neurons that change their places or not."""
    for seed in range(8):
        case = run(seed, steps, 2, (6,))
        follow: list[Tensor] | list[None] = followed(steps, 6) if tracked else [None] * (steps - 1)
        slack = slack_for(case.membranes, 1 if shared else ROWS)
        a, _ = coefficients(steps, 2, (6,))
        inputs = [value.requires_grad_() for value in (a, slack.share, slack.mix)]
        lines = chosen_slopes(case.membranes, case.dynamics, slack)
        found = lines.pull_spikes(a, follow)
        expected = scan_back(lines, a, torch.zeros_like(a[:, 0]), follow)
        generator = torch.Generator().manual_seed(seed)
        total = []
        for pulled in (found, expected):
            weights = [torch.randn(part.shape, dtype=DOUBLE, generator=generator) for part in pulled]
            products = [(w * part).sum() for w, part in zip(weights, pulled, strict=True)]
            total.append(torch.stack(products).sum())
            generator.manual_seed(seed)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        mine, theirs = (torch.autograd.grad(part, inputs) for part in total)
        for one, other in zip(mine, theirs, strict=True):
            assert other.isfinite().all() and one.isfinite().all()
            torch.testing.assert_close(one, other)
        assert all(bool(gradient.any()) for gradient in theirs)


# Gradients.


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_finite_for_degenerate_intervals_too(name: str) -> None:
    ends = torch.tensor([-1.0, 0.0, 1 - 1e-12, 1.0, 1 + 1e-12, 2.0, 100.0], dtype=DOUBLE)
    pairs = torch.cartesian_prod(ends, ends)
    low, high = (end.clone().requires_grad_() for end in pairs[pairs[:, 0] <= pairs[:, 1]].T)
    numbers = [torch.tensor(value, dtype=DOUBLE, requires_grad=True) for value in (1, 0.5, 0.1, 0.3, -0.2)]
    dynamics = dynamics_of(numbers)
    a = torch.tensor([1.0, -1.0, 0.0, 0.5], dtype=DOUBLE).view(-1, 1, 1, 1).expand(-1, 2, len(low), -1)
    a = a.clone().requires_grad_()
    carried = torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=DOUBLE).view(-1, 1, 1).expand(-1, len(low), -1)
    carried = carried.clone().requires_grad_()
    membranes = Interval(*(end.expand(2, -1)[..., None] for end in (low, high)))
    k, constant = MAKERS[name](membranes, dynamics).pull_carried(a, carried)
    inputs = (low, high, a, carried, *numbers)
    gradients = torch.autograd.grad(constant.sum() + (k * k).sum().log1p(), inputs)
    for gradient in gradients:
        assert gradient.isfinite().all()
    assert all(bool(gradient.any()) for gradient in gradients[2:])


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Away from the kinks, for neurons of all three kinds (silent, firing, unstable on either side)."""
    low = torch.tensor([-1.0, 1.1, 0.2, -2.0, 0.9], dtype=DOUBLE)
    high = torch.tensor([0.9, 2.0, 3.0, 1.5, 1.2], dtype=DOUBLE)
    numbers = torch.tensor([1.0, 0.6, 0.1, 0.3, -0.2], dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 1, 5, dtype=DOUBLE, generator=generator)
    carried = torch.randn(3, 1, 5, dtype=DOUBLE, generator=generator)

    def function(
        low: Tensor, high: Tensor, numbers: Tensor, a: Tensor, carried: Tensor
    ) -> tuple[Tensor, ...]:
        membranes = Interval(*(end.expand(2, 1, -1) for end in (low, high)))
        lines = MAKERS[name](membranes, dynamics_of(numbers))
        return tuple(lines.pull_carried(a, carried))

    inputs = tuple(value.requires_grad_() for value in (low, high, numbers, a, carried))
    assert torch.autograd.gradcheck(function, inputs)
