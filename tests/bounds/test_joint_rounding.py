"""Rounding where links meet and nothing is chosen: sums, concatenations, maxima, each error for itself."""

from __future__ import annotations

import pytest
import torch
from soundness import true_margins
from temporal import backward
from torch import nn

from certsnn.bounds import margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS, Interval
from certsnn.bounds.interval.frames import BoundedFrames
from certsnn.bounds.interval.joints import Added, Joined, Part
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import Forms
from certsnn.bounds.linear.levels import Known, Pooling, level_of
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.graph import Add, Concatenate
from certsnn.inputsets import LinfBall, LinfFrames
from certsnn.layers import as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

POINT = LinfFrames(0.0, -9, 9)
HALF = 2.0**-24
"""Half the distance of 1 to the next float32 number."""
DOWN, UP = (1.0, HALF, HALF), (1 + 2 * HALF, HALF, 3 * HALF)
"""Each of two additions meets a tie, which goes to the even number: twice below the sum, twice above it."""


def crop(before: int) -> nn.Module:
    """One of three numbers of each class."""
    return nn.Sequential(nn.ZeroPad1d((-before, before - 2)), nn.Flatten())


def test_each_addition_of_a_sum_is_covered() -> None:
    nodes: dict[str, tuple[nn.Module, list[str]]] = {"beside": (LIF(), ["input"])}
    nodes |= {str(part): (crop(part), ["input"]) for part in range(3)}
    nodes["sum"] = (Add(), ["0", "1", "2"])
    network = SpikingNetwork.from_graph(nodes, 2, "last", "frames").eval()
    zero = (0.0, 0.0, 0.0)
    x = torch.tensor([[DOWN, zero], [zero, UP], [DOWN, UP]]).expand(2, -1, -1, -1).contiguous()
    y = torch.tensor([0, 0, 0])
    with torch.no_grad():
        executed = true_margins(network(x), y)
        assert (executed < true_margins(x[0].double().sum(2), y)).all(), "the example shows nothing"
        found = margin_bounds(network, x, y, POINT, rounding=True)
    for margins in (found, backward(network, x, y, POINT, RIGOROUS)):
        assert (margins <= executed).all() and (margins > executed - 1e-4).all()


@pytest.mark.parametrize("terms", [DOWN, UP, (HALF, 1.0, HALF)])
def test_each_addition_at_every_step_is_covered_in_sums_over_time(terms: tuple[float, ...]) -> None:
    parts = [torch.full((8, 1, 1), term) for term in terms]
    sums = ((parts[0] + parts[1]) + parts[2]).double().cumsum(0)
    for sign in (1, -1):
        held = tuple(Part(BoundedFrames(Interval(sign * part, sign * part)), ()) for part in parts)
        low, high = Added(held, RIGOROUS, torch.float32).charge((), RIGOROUS).sums
        assert (low <= sign * sums).all() and (sign * sums <= high).all()


def test_sums_that_a_processor_takes_as_zero_are_covered() -> None:
    x = torch.full((2, 1, 1), 2.0**-127)
    part = Part(BoundedFrames(Interval(x, x)), ())
    low, _ = Added((part, part), RIGOROUS, torch.float32).charge((), RIGOROUS).sums
    assert (low <= 0).all()  # where subnormal numbers are flushed, they are
    nodes = {"beside": (LIF(), ["input"]), "sum": (Add(), ["input", "input"])}
    network = SpikingNetwork.from_graph(nodes, 2, "last", "frames").eval()
    frames = torch.tensor([2.0**-127, 0.0]).expand(2, 1, 2).contiguous()
    assert (backward(network, frames, torch.tensor([0]), POINT, RIGOROUS) <= 0).all()


def cancelling(outputs: int, moving: int) -> nn.Linear:
    """One output that is what is left of large terms; the others are 0."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(40, outputs, bias=False)
    large = 1000 * torch.rand(20, generator=generator)
    layer.weight.data.zero_()
    layer.weight.data[moving] = torch.cat([large, torch.rand(20, generator=generator) - large])
    return layer


def zeros(outputs: int) -> nn.Linear:
    layer = nn.Linear(40, outputs, bias=False)
    layer.weight.data.zero_()
    return layer


def pooled() -> nn.Module:
    layer = cancelling(6, 0)
    layer.weight.data[1] = layer.weight.data[0]
    return nn.Sequential(layer, nn.Unflatten(1, (3, 2)), nn.MaxPool1d(2), nn.Flatten())


@torch.no_grad()
def test_currents_of_a_sum_add_up_over_time_as_they_are_executed() -> None:
    """Large products that cancel at the first step; the bias alone is left at the later ones."""
    layer = cancelling(3, 0)
    layer.bias = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    half = torch.rand(2, 4, 7, 20, generator=torch.Generator().manual_seed(4))
    half[:, 1:] = 0
    one, other = torch.cat([half, half], 3)
    for radius in (0.0, 0.01):
        parts = [Part(BoundedFrames(Interval(x - radius, x + radius)), ()) for x in (one, other)]
        low, high = Added(tuple(parts), RIGOROUS, torch.float32).charge([as_affine(layer)], RIGOROUS).sums
        for shift in (-radius, 0, radius):
            sums = layer((one + shift) + other).double().cumsum(0)
            assert (low <= sums).all() and (sums <= high).all()
        assert radius > 0 or float((high - low).max()) < 0.2


@torch.no_grad()
def test_magnitudes_of_what_is_joined_add_up_over_time() -> None:
    """Two halves side by side are not rounded; the products behind them are, at the first step."""
    layer = cancelling(1, 0)
    half = torch.rand(4, 50, 20, generator=torch.Generator().manual_seed(4))
    half[1:] = 0
    part = Part(BoundedFrames(Interval(half, half)), ())
    low, high = Joined((part, part), RIGOROUS, torch.float32).charge([as_affine(layer)], RIGOROUS).sums
    sums = layer(torch.cat([half, half], 2)).double().cumsum(0)
    assert (low <= sums).all() and (sums <= high).all()


@torch.no_grad()
def test_maxima_of_an_image_that_is_held() -> None:
    nodes = {"pool": (nn.Sequential(nn.MaxPool1d(2), nn.Flatten()), ["input"]), "beside": (LIF(), ["pool"])}
    network = SpikingNetwork.from_graph({**nodes, "out": (nn.Linear(3, 2), ["pool"])}, 4, "sum").eval()
    x, y = torch.rand(6, 1, 6), torch.tensor([0, 1, 0, 1, 0, 1])
    found = margin_bounds(network, x, y, LinfBall(0.1, low=None, high=None), rounding=True)
    relaxed = backward(network, x, y, LinfBall(0.1, low=None, high=None), RIGOROUS)
    for seed in range(40):
        signs = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
        executed = true_margins(network(x + 0.1 * signs.sign()), y)
        assert (found <= executed).all() and (relaxed <= executed).all()
    assert float((executed - relaxed).min()) < 1


JOINTS: dict[str, dict[str, tuple[nn.Module, list[str]]]] = {
    "first of a sum": {
        "a": (cancelling(3, 0), ["input"]),
        "b": (zeros(3), ["input"]),
        "z": (Add(), ["a", "b"]),
    },
    "second of a sum": {
        "a": (zeros(3), ["input"]),
        "b": (cancelling(3, 0), ["input"]),
        "z": (Add(), ["a", "b"]),
    },
    "first of a concatenation": {
        "a": (cancelling(1, 0), ["input"]),
        "b": (zeros(2), ["input"]),
        "z": (Concatenate(), ["a", "b"]),
    },
    "maxima": {"z": (pooled(), ["input"])},
}


@pytest.mark.parametrize("name", JOINTS)
def test_the_products_of_a_link_are_covered(name: str) -> None:
    """Class 0 alone is not 0, so only its own error may be taken off."""
    nodes = {"beside": (LIF(), ["input"]), **JOINTS[name]}
    network = SpikingNetwork.from_graph(nodes, 2, "last", "frames").eval()
    half = torch.rand(2, 200, 20, generator=torch.Generator().manual_seed(4))
    x, y = torch.cat([half, half], 2), torch.zeros(200, dtype=torch.long)
    with torch.no_grad():
        executed = true_margins(network(x), y)
        exact = cancelling(1, 0).double()(x[-1].double())
        found = margin_bounds(network, x, y, POINT, rounding=True)
    assert (executed < exact).any(), "the example shows nothing"
    for margins in (found, backward(network, x, y, POINT, RIGOROUS)):
        assert (margins <= executed).all()


@torch.no_grad()
def test_lines_through_maxima_hold_and_their_float64_errors_are_taken_off() -> None:
    nodes = {"pool": (nn.Sequential(nn.MaxPool1d(2), nn.Flatten()), ["input"]), "beside": (LIF(), ["pool"])}
    program = SpikingNetwork.from_graph(nodes, 2, "rate", "frames").eval().freeze()
    x = torch.rand(2, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    input_set = LinfFrames(0.1, -9, 9).bind(x, torch.arange(1))[1]
    problem = pose(program, x, torch.zeros(1, dtype=torch.long), input_set, RIGOROUS)
    sources = propagate(problem, feasible_flips)
    level = level_of(program.nodes[0], sources[1], Known(problem, sources, RELAXATIONS["joint"]))
    assert isinstance(level, Pooling)
    a, nothing = torch.randn(4, 2, 1, 1, 3).double(), torch.zeros(4, 1).double()
    ((_, carried),), constant, error = level.pull(Forms(a, nothing, nothing))
    assert (error >= level.maxima.lost(a)).all() and (level.maxima.lost(a) > 0).all()
    for seed in range(50):
        signs = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        member = torch.where(signs, *input_set.box(x)).double()
        form = (a * member.unflatten(3, (3, 2)).amax(4)).flatten(1).sum(1)
        assert (form >= (carried * member).flatten(1).sum(1) + (constant - error)[:, 0]).all()
