"""auto_LiRPA as a second engine: sound at thresholds, exact where nothing moves, and gone without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice, product
from typing import Any

import pytest
import torch
from dynamics import changed
from hypothesis import given, settings
from strategies import PIXEL, Example, examples
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import bind
from certsnn.bounds import margin_bounds as own_bounds
from certsnn.bounds.interval.propagate import others
from certsnn.errors import UserError
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, InputSet, LinfBall, NestedTrains, SpikeFlips
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
from certsnn.interop.auto_lirpa import ENGINE_METHODS, Engine, margin_bounds
from certsnn.layers import Normalize
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Dynamics, Neuron

needs_engine = pytest.mark.skipif(find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed")

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


# Firing and carry in one dimension.


def intervals(threshold: float) -> tuple[Tensor, Tensor]:
    """All [l, h] with ends on a grid that meets the threshold, and next to it."""
    ends = [threshold * part for part in (-4, -1, 0, 0.5, 0.9, 1, 1.1, 1.5, 2, 8)]
    at = torch.tensor(threshold)
    ends += [float(torch.nextafter(at, at.new_tensor(end))) for end in (-1e9, 1e9)]
    pairs = [(low, high) for low, high in product(ends, ends) if low <= high]
    lower, upper = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    return lower, upper


def points(lower: Tensor, upper: Tensor, threshold: float) -> Tensor:
    """A dense grid on each interval ``[M, N]``, with its ends, and the threshold from both sides."""
    grid = lower + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None] * (upper - lower)
    at = torch.full((), threshold, dtype=torch.float64)
    near = torch.stack([at, torch.nextafter(at, at - 1), torch.nextafter(at, at + 1)])[:, None]
    return torch.cat([grid, near.expand(-1, len(lower)), lower[None], upper[None]]).clamp(lower, upper)


def double(neuron: Neuron) -> Dynamics:
    return changed(neuron.dynamics(), lambda number: number.detach().double())


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


def executed_margins(network: SpikingNetwork, x: Tensor, y: Tensor) -> Tensor:
    logits: Tensor = network(x)
    return logits.gather(1, y[:, None]) - logits.gather(1, others(y, logits.shape[1]))


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
    merged = network.readout == "rate" or isinstance(network.freeze().readout[-1], Dense)
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


def normalised(norm: nn.Module, channels: int) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    norm.running_mean = torch.rand(channels, generator=generator) - 0.5
    norm.running_var = torch.rand(channels, generator=generator) + 0.2
    return norm


OPERATORS = {
    "linear": [nn.Flatten(), nn.Linear(2 * 6 * 5, 7, bias=False)],
    "linear twice": [nn.Flatten(), nn.Linear(2 * 6 * 5, 4), nn.Linear(4, 7)],
    "conv": [nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 2), bias=False)],
    "conv with dilations": [nn.Conv2d(2, 4, (2, 3), stride=2, padding=1, dilation=(2, 1), groups=2)],
    "pool": [nn.AvgPool2d(2, stride=1, padding=1)],
    "pool rounding up": [nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)],
    "pool with a divisor": [nn.AvgPool2d((2, 3), divisor_override=5), nn.Conv2d(2, 2, 1)],
    "normalize": [Normalize([0.3], [0.5])],
    "batch norm first": [normalised(nn.BatchNorm2d(2), 2)],
    "batch norm of features": [nn.Flatten(), normalised(nn.BatchNorm1d(60), 60), nn.Dropout()],
    "nothing": [],
    "partial flatten": [nn.Flatten(2, 3), nn.Flatten(1, 2), nn.Linear(60, 3)],
}


@needs_engine
@pytest.mark.parametrize("readout", ["membrane", "rate"])
@pytest.mark.parametrize("layers", OPERATORS.values(), ids=OPERATORS.keys())
def test_a_point_has_the_executed_margins(layers: list[nn.Module], readout: Any) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 2, 6, 5)
    chain = nn.Sequential(*layers).eval()
    features = chain(x).flatten(1).shape[1]
    network = SpikingNetwork(
        [
            *layers,
            LIF(0.2, 0.5, initial=0.1),
            nn.Flatten(),
            nn.Linear(features, 4),
            *([LIF(0.1, 0.5, "subtract")] if readout == "rate" else [normalised(nn.BatchNorm1d(4), 4)]),
        ],
        3,
        readout,
    ).eval()
    y = torch.tensor([0, 3, 1])
    with torch.no_grad():
        margins = executed_margins(network, x, y)
    engine = Engine(network.freeze(), x)
    for method in ENGINE_METHODS:
        torch.testing.assert_close(engine.margins(LinfBall(0), y, method), margins, rtol=1e-5, atol=1e-5)


def spike_network() -> SpikingNetwork:
    torch.manual_seed(0)
    return SpikingNetwork(
        [nn.Linear(6, 12), LIF(0.25, 0.25), nn.Linear(12, 3), LIF(0.25, 0.25)], 4, "rate", "spikes"
    ).eval()


@needs_engine
def test_nested_trains_are_covered_by_their_box() -> None:
    network, y = spike_network(), torch.tensor([0, 1])
    x0, nested = CoupledBernoulli(0.2, 4, seed=0).bind(torch.rand(2, 6), torch.arange(2))
    assert isinstance(nested, NestedTrains)
    engine = Engine(network.freeze(), x0)
    for method in ENGINE_METHODS:
        covered = engine.margins(nested.cover(), y, method)
        assert torch.equal(engine.margins(nested, y, method), covered)
        assert (covered > -1).any()


@needs_engine
def test_an_engine_answers_again_and_again() -> None:
    network, y = spike_network(), torch.tensor([2, 1])
    x0 = (torch.rand(4, 2, 6) < 0.5).float()
    sets = [FreeSpikes(density).bind(x0, torch.arange(2))[1] for density in (0.1, 0.4, 0.0)]
    engine = Engine(network.freeze(), x0)
    asked = [(input_set, method) for input_set in sets for method in ENGINE_METHODS]
    first = [engine.margins(input_set, y, method) for input_set, method in asked]
    for (input_set, method), expected in reversed(list(zip(asked, first, strict=True))):
        assert torch.equal(engine.margins(input_set, y, method), expected)
        assert torch.equal(margin_bounds(network.freeze(), x0, y, input_set, method), expected)


@needs_engine
def test_lines_know_that_two_neurons_share_a_pixel() -> None:
    """Membranes x + 5/8 and 13/8 - x of a pixel in [1/8, 7/8]: both in [3/4, 3/2], in sum always 9/4."""
    first, last = nn.Linear(1, 2), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.625, 1.625]))
        last.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    network = SpikingNetwork([first, LIF(1.0, 0.5), last], 1, "membrane").eval()
    x0, y = torch.tensor([[0.5]]), torch.tensor([0])
    engine = Engine(network.freeze(), x0)
    found = {method: engine.margins(LinfBall(0.375), y, method).item() for method in ENGINE_METHODS}
    # By intervals neither needs to fire; by lines s >= (u - 1) / (1/2), in sum 2 (9/4 - 2).
    assert found == {"ibp": 0.0, "crown-ibp": 0.5, "crown": 0.5}


@needs_engine
def test_the_methods_differ_behind_the_first_layer() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 12), LIF(0.25, 0.25), nn.Linear(12, 12), LIF(0.25, 0.25), nn.Linear(12, 3)]
    network = SpikingNetwork(layers, 3, "membrane").eval()
    x0, y = torch.rand(4, 8), torch.tensor([0, 1, 2, 0])
    engine = Engine(network.freeze(), x0)
    ibp, over_ibp, throughout = (engine.margins(LinfBall(0.05), y, m) for m in ENGINE_METHODS)
    assert (over_ibp - ibp).abs().max() > 1e-3
    assert (throughout - over_ibp).abs().max() > 1e-3
    torch.testing.assert_close(ibp, own_bounds(network, x0, y, LinfBall(0.05)))


@needs_engine
def test_float64_programs() -> None:
    network = spike_network().double()
    x0 = (torch.rand(4, 2, 6) < 0.5).double()
    x0, free = FreeSpikes(0.1).bind(x0, torch.arange(2))
    y = torch.tensor([2, 1])
    for method in ENGINE_METHODS:
        bound = margin_bounds(network.freeze(), x0, y, free, method)
        assert bound.dtype == torch.float64
        own = own_bounds(network, x0, y, free)
        if method == "ibp":
            torch.testing.assert_close(bound, own)


@needs_engine
def test_the_network_is_left_as_it_was() -> None:
    network = spike_network()
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    x0, free = FreeSpikes(0.1).bind((torch.rand(4, 2, 6) < 0.5).float(), torch.arange(2))
    margin_bounds(network.freeze(), x0, torch.tensor([0, 1]), free, "crown")
    for name, value in network.state_dict().items():
        pointer, content = before[name]
        assert value.data_ptr() == pointer
        assert torch.equal(value, content)
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [True, True, False, False] * 2


FIRST_USE = """
import logging, sys, warnings
import torch
from certsnn.interop.auto_lirpa import margin_bounds
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

def state():
    setters = (torch._C._jit_set_profiling_executor, torch._C._jit_set_profiling_mode)
    profiling = [setter(True) for setter in setters]
    for setter, value in zip(setters, profiling):
        setter(value)
    return (
        list(logging.root.handlers), logging.root.level, logging.root.manager.disable,
        list(warnings.filters), warnings.showwarning, sys.getrecursionlimit(), profiling,
        "numpy.lib.arraysetops" in sys.modules, hasattr(torch._C.Node, "__getitem__"),
        hasattr(torch.onnx.symbolic_helper, "_set_opset_version"),
    )

assert "auto_LiRPA" not in sys.modules
before = state()
network = SpikingNetwork([torch.nn.Linear(3, 4), LIF(), torch.nn.Linear(4, 2), LIF()], 2).eval()
margin_bounds(network.freeze(), torch.rand(2, 3), torch.tensor([0, 1]), LinfBall(0.1), "crown")
assert "auto_LiRPA" in sys.modules
assert state() == before, (state(), before)
"""


@needs_engine
def test_the_process_is_left_as_it_was() -> None:
    """In a process of its own, as the package is imported only once."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", FIRST_USE], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What is refused, and what needs no engine.


def test_flip_budgets_are_refused() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    with pytest.raises(ValueError, match=r"no sound bounds for SpikeFlips\(budget=1"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(1), "ibp")


@needs_engine
def test_a_budget_of_no_flips_is_a_point() -> None:
    network, x0, y = spike_network(), torch.ones(4, 1, 6), torch.tensor([0])
    bound = margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "crown")
    with torch.no_grad():
        torch.testing.assert_close(bound, executed_margins(network, x0, y))


@needs_engine
def test_networks_without_weights_are_refused() -> None:
    network, x0 = SpikingNetwork([LIF(0.5)], 2).eval(), torch.rand(1, 3)
    with pytest.raises(ValueError, match="this one has none"):
        margin_bounds(network.freeze(), x0, torch.tensor([0]), LinfBall(0.1), "ibp")


def test_unknown_methods_are_refused() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    with pytest.raises(ValueError, match="no method 'alpha'; known: ibp, crown-ibp, crown"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "alpha")


@pytest.mark.parametrize("missing", ["auto_LiRPA", "appdirs"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("auto_LiRPA", missing)]:
        monkeypatch.delitem(sys.modules, name)
    if missing != "auto_LiRPA" and find_spec("auto_LiRPA") is None:
        pytest.skip("auto_LiRPA is not installed")
    monkeypatch.setitem(sys.modules, missing, None)
    network, x0, y = spike_network(), torch.zeros(4, 1, 6), torch.tensor([0])
    install = "pip install --no-deps auto_LiRPA==0.3 tqdm appdirs"
    with pytest.raises(UserError, match=f"{missing}.*{install}"):
        margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "ibp")


def test_an_empty_batch_needs_no_engine() -> None:
    network, x0, y = spike_network(), torch.zeros(4, 0, 6), torch.zeros(0, dtype=torch.int64)
    assert margin_bounds(network.freeze(), x0, y, SpikeFlips(0), "crown").shape == (0, 2)
