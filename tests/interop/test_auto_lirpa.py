"""auto_LiRPA as a second engine: sound at thresholds, exact where nothing moves, and gone without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, product
from typing import Any

import pytest
import torch
from dynamics import changed
from hypothesis import given, settings
from lirpa_cases import double, executed_margins, intervals, needs_engine
from strategies import PIXEL, Example, examples
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import bind
from certsnn.bounds import margin_bounds as own_bounds
from certsnn.inputsets import InputSet, LinfBall
from certsnn.interop._lirpa_neurons import (
    CARRY,
    FIRE,
    bound_classes,
    carry,
    carry_interval,
    carry_lines,
    fire,
    fire_interval,
    fire_lines,
    shifts,
)
from certsnn.interop.auto_lirpa import ENGINE_METHODS, Engine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron

TOLERANCE = 1e-4
NEURONS: list[Neuron] = [
    LIF(0.25, 0.25),
    LIF(1.0, 0.5, "subtract"),
    LIF(1.0, 0.0),
    LIF(1.0, 0.5, 0.75),
    LIF(0.5, 0.9, -2.0),
    LIF(1.0, 0.5, 4.0),  # jumps up at the threshold
    LIF(1.0, 0.5, (1.5, 0.5)),
    LIF(1.0, 1.0, (0.25, -0.5)),
    LIF(1.0, 0.5, (2.0, -1.5)),  # no jump
    IF(1.0),
    IF(1.0, "zero"),
    IF(0.5, 0.5),
]
by_neuron = pytest.mark.parametrize("neuron", NEURONS, ids=str)


def points(lower: Tensor, upper: Tensor, threshold: float) -> Tensor:
    """A dense grid on each interval ``[M, N]``, with its ends, and the threshold from both sides."""
    grid = lower + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None] * (upper - lower)
    at = torch.full((), threshold, dtype=torch.float64)
    near = torch.stack([at, torch.nextafter(at, at - 1), torch.nextafter(at, at + 1)])[:, None]
    return torch.cat([grid, near.expand(-1, len(lower)), lower[None], upper[None]]).clamp(lower, upper)


FUNCTIONS = {"fire": (fire, fire_interval, fire_lines), "carry": (carry, carry_interval, carry_lines)}
by_function = pytest.mark.parametrize(
    ("value", "interval", "lines"), FUNCTIONS.values(), ids=FUNCTIONS.keys()
)


@by_function
@by_neuron
def test_intervals_hold_the_function_and_are_reached(
    neuron: Neuron, value: Any, interval: Any, lines: Any
) -> None:
    dynamics = double(neuron)
    threshold = float(dynamics.threshold)
    lower, upper = intervals(threshold)
    values = value(points(lower, upper, threshold), dynamics)
    low, high = interval(lower, upper, dynamics)
    assert (low <= values).all()
    assert (values <= high).all()
    # Reached, up to the value that the lower branch tends to at the threshold.
    torch.testing.assert_close(low, values.amin(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(high, values.amax(0), rtol=0, atol=1e-6)


@by_function
@by_neuron
def test_lines_hold_the_function_and_touch_it(neuron: Neuron, value: Any, interval: Any, lines: Any) -> None:
    dynamics = double(neuron)
    threshold = float(dynamics.threshold)
    lower, upper = intervals(threshold)
    u = points(lower, upper, threshold)
    values, found = value(u, dynamics), lines(lower, upper, dynamics)
    assert all(part.isfinite().all() for part in found)
    below = values - (found.lower_slope * u + found.lower_shift)
    above = found.upper_slope * u + found.upper_shift - values
    # Of neighbouring floats at the threshold, divisions leave rounding errors relative to the slope.
    slack = 1e-9 * (1 + found.lower_slope.abs() + found.upper_slope.abs())
    assert (below >= -slack).all()
    assert (above >= -slack).all()
    assert (below.amin(0) <= 1e-6 + slack).all()
    assert (above.amin(0) <= 1e-6 + slack).all()
    stable = (upper < threshold) | (lower >= threshold)
    assert (below[:, stable].abs() <= 1e-12).all()
    assert (above[:, stable].abs() <= 1e-12).all()


@by_neuron
def test_lines_of_any_slope_hold_the_carry(neuron: Neuron) -> None:
    dynamics = double(neuron)
    threshold = float(dynamics.threshold)
    lower, upper = intervals(threshold)
    unstable = (lower < threshold) & (upper >= threshold)
    lower, upper = lower[unstable], upper[unstable]
    u = points(lower, upper, threshold)
    values = carry(u, dynamics)
    for slope in (-3.0, -0.5, 0.0, 0.3, 1.0, 7.0):
        slopes = torch.full_like(lower, slope)
        low, high = shifts(slopes, lower, upper, dynamics)
        torch.testing.assert_close(low, (values - slope * u).amin(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(high, (values - slope * u).amax(0), rtol=0, atol=1e-6)


@by_function
@by_neuron
def test_narrow_intervals_do_not_magnify_rounding(
    neuron: Neuron, value: Any, interval: Any, lines: Any
) -> None:
    """In float32, intervals of few units in the last place around the threshold."""
    dynamics = changed(neuron.dynamics(), Tensor.detach)
    at = dynamics.threshold
    widths = at * torch.logspace(-8, -1, 200)
    for part in (0.0, 0.3, 0.5, 0.9, 1.0):
        lower, upper = at - part * widths, at + (1 - part) * widths
        found = lines(lower, upper, dynamics)
        low, high = interval(lower, upper, dynamics)
        for u in (lower, at.expand_as(lower), torch.nextafter(at, 0 * at).maximum(lower), upper):
            exact, slack = value(u, dynamics), 1e-3 * (1 + low.abs() + high.abs())
            assert (found.lower_slope * u + found.lower_shift <= exact + slack).all()
            assert (found.upper_slope * u + found.upper_shift >= exact - slack).all()


def test_lines_of_an_unstable_neuron_by_hand() -> None:
    dynamics = double(LIF(1.0, 0.5))
    lower = torch.tensor([0.5, -1.0, -1.0, 0.0], dtype=torch.float64)
    upper = torch.tensor([3.0, 1.5, 1.0, 2.0], dtype=torch.float64)
    found = fire_lines(lower, upper, dynamics)
    # (u - 1) / 2 <= s <= 1;  0 <= s <= (u + 1) / 2 twice;  on a tie u - 1 <= s <= 1
    assert found.lower_slope.tolist() == [0.5, 0, 0, 1]
    assert found.lower_shift.tolist() == [-0.5, 0, 0, -1]
    assert found.upper_slope.tolist() == [0, 0.5, 0.5, 0]
    assert found.upper_shift.tolist() == [1, 0.5, 0.5, 1]
    found = carry_lines(lower, upper, dynamics)
    # from l = 0 on: 0; below: the chord from (-1, -1/2) to (h, 0); above: u / 2
    assert found.lower_slope.tolist() == [0, 0.2, 0.25, 0]
    torch.testing.assert_close(found.lower_shift, torch.tensor([0, -0.3, -0.25, 0], dtype=torch.float64))
    assert found.upper_slope.tolist() == [0.5] * 4
    assert found.upper_shift.tolist() == [0] * 4


class Stub:
    """As much of auto_LiRPA's Bound as the bound classes need."""

    def __init__(self, *arguments: Any) -> None:
        self.lower, self.upper = arguments[0].get("box", (None, None))


@pytest.mark.parametrize("kind", [FIRE, CARRY])
@by_neuron
def test_bound_classes_pull_both_signs_back(neuron: Neuron, kind: str) -> None:
    dynamics = double(neuron)
    threshold = float(dynamics.threshold)
    lower, upper = intervals(threshold)
    box = (lower[:, None], upper[:, None])  # a sample each, of one neuron
    other = double(LIF(17.0, 0.5))
    node = bound_classes(Stub, [other, dynamics])[kind]({"stage": 1}, [], 0, {})
    assert node.requires_input_bounds == [0]
    value, interval = (fire, fire_interval) if kind == FIRE else (carry, carry_interval)
    for found, expected in zip(node.interval_propagate(box), interval(*box, dynamics), strict=True):
        assert torch.equal(found, expected)
    rows = torch.tensor([1.0, -1.0, 0.0, 2.5, -0.3], dtype=torch.float64)
    A = rows[:, None, None].expand(-1, len(lower), 1)
    [(low, high)], low_bias, high_bias = node.bound_backward(A, A, Stub({"box": box}))
    slack = 1e-9 * (1 + low.abs() + high.abs()).sum(2)
    u = points(lower, upper, threshold)[:, None, :, None]  # [N, 1, B, 1]
    exact = (A * value(u, dynamics)).sum(3)
    assert ((low * u).sum(3) + low_bias <= exact + slack).all()
    assert ((high * u).sum(3) + high_bias >= exact - slack).all()
    [(again, none)], again_bias, zero = node.bound_backward(A, None, Stub({"box": box}))
    assert torch.equal(again, low)
    assert torch.equal(again_bias, low_bias)
    assert none is None
    assert zero == 0


# Networks.


def members(example: Example, x0: Tensor, input_set: InputSet) -> Iterator[Tensor]:
    """x0, some members in order, the box's corners, and random members."""
    generator = torch.Generator().manual_seed(example.seed)
    yield x0
    with suppress(ValueError):  # too many, or infinitely many
        yield from islice(input_set.enumerate(x0), 32)
    lower, upper = input_set.box(x0)
    yield from (input_set.project(x0, x) for x in (lower, upper))
    for _ in range(12):
        x = input_set.sample(x0, generator)
        if example.exact and isinstance(input_set, LinfBall):
            x = ((x / PIXEL).round() * PIXEL).clamp(lower, upper)  # stay exactly computable
        yield x


# Which methods are sound without covering rounding errors: ties are decided exactly where all bounds of
# membranes are (dyadic numbers, no division), and never happen among smooth ones.
SOUND = {"smooth": ENGINE_METHODS, "dyadic": ("ibp", "crown-ibp"), "grid": ()}


@needs_engine
@given(examples(ways=("linf", "box", "free", "coupled")))
@settings(max_examples=40)
@torch.no_grad()
def test_bounds_hold_for_members(example: Example) -> None:
    network = example.network
    x0, input_set = bind(network, example.x, example.threat, None)
    y = network(x0).argmax(1)
    engine = Engine(network.freeze(), x0)
    bounds = {method: engine.margins(input_set, y, method) for method in ENGINE_METHODS}
    for bound in bounds.values():
        assert bound.isfinite().all()
    for x in members(example, x0, input_set):
        margins = executed_margins(network, x, y)
        for method in SOUND[example.numbers]:
            slack = TOLERANCE * (1 + margins.abs() + bounds[method].abs())
            assert (bounds[method] <= margins + slack).all(), method
    # Intervals are the same arithmetic, unless ours count spikes or leave a layer unmerged.
    merged = network.readout == "rate" or isinstance(network.freeze().readout.operators[-1], Dense)
    lossless = any(stage.neuron.lossless for stage in network.freeze().stages)
    if merged and not lossless and example.numbers != "grid":
        own = own_bounds(network, example.x, y, example.threat)
        assert (bounds["ibp"] <= own + TOLERANCE * (1 + own.abs())).all()


def one_neuron(neuron: Neuron, bias: float, signs: tuple[float, float], steps: int) -> SpikingNetwork:
    """Pixels summed up with a bias, one neuron, and the logits' weights on its mean spike."""
    first, last = nn.Linear(2, 1), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        first.weight.fill_(1.0)
        first.bias.fill_(bias)
        last.weight.copy_(torch.tensor(signs)[:, None])
    return SpikingNetwork([first, neuron, last], steps, "membrane").eval()


@needs_engine
@pytest.mark.parametrize("neuron", [LIF(1.0, 0.5), IF(1.0), LIF(1.0, 0.5, 4.0)], ids=str)
@torch.no_grad()
def test_thresholds_met_exactly(neuron: Neuron) -> None:
    """Pixels 1/2 +- eps: the first membrane runs from 1 + bias - 2 eps to 1 + bias + 2 eps, threshold 1."""
    x0, y = torch.full((1, 2), 0.5), torch.tensor([0])
    shares = torch.linspace(-1, 1, 17)
    cases = product((-0.5, -0.25, 0.0, 0.25, 0.5), (1, 2, 3), ((1.0, 0.0), (0.0, 1.0)))
    for bias, steps, signs in cases:
        network = one_neuron(neuron, bias, signs, steps)
        engine = Engine(network.freeze(), x0)
        for eps, method in product((0.0, 0.125, 0.25), ENGINE_METHODS):
            inputs = x0 + eps * torch.cartesian_prod(shares, shares)
            exact = executed_margins(network, inputs, y.expand(len(inputs))).min().item()
            bound = engine.margins(LinfBall(eps), y, method).item()
            assert bound <= exact + 1e-6
            # Nothing is lost where a membrane has one value, or at one step if stable (or for intervals).
            stable = 2 * eps < -bias or 2 * eps <= bias
            if eps == 0 or (steps == 1 and (stable or method == "ibp")):
                assert bound == pytest.approx(exact, abs=1e-6)
