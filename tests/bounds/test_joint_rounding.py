"""Rounding where links meet and nothing is chosen: sums, concatenations, maxima, each error for itself."""

from __future__ import annotations

import pytest
import torch
from soundness import true_margins
from temporal import backward
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS, Interval
from certsnn.bounds.interval.frames import BoundedFrames
from certsnn.bounds.interval.joints import Added, Part
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import Forms
from certsnn.bounds.linear.levels import Known, Pooling, level_of
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.graph import Add, Concatenate
from certsnn.inputsets import LinfFrames
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


@pytest.mark.parametrize("terms", [DOWN, UP])
def test_each_addition_at_every_step_is_covered_in_sums_over_time(terms: tuple[float, ...]) -> None:
    parts = [torch.full((8, 1, 1), term) for term in terms]
    sums = ((parts[0] + parts[1]) + parts[2]).double().cumsum(0)
    for sign in (1, -1):
        held = tuple(Part(BoundedFrames(Interval(sign * part, sign * part)), ()) for part in parts)
        low, high = Added(held, RIGOROUS, torch.float32).charge((), RIGOROUS).sums
        assert (low <= sign * sums).all() and (sign * sums <= high).all()


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
def test_the_float64_errors_of_lines_above_maxima_are_taken_off() -> None:
    nodes = {"pool": (nn.Sequential(nn.MaxPool1d(2), nn.Flatten()), ["input"]), "beside": (LIF(), ["pool"])}
    program = SpikingNetwork.from_graph(nodes, 2, "rate", "frames").eval().freeze()
    x = torch.rand(2, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    input_set = LinfFrames(0.1, -9, 9).bind(x, torch.arange(1))[1]
    problem = pose(program, x, torch.zeros(1, dtype=torch.long), input_set, RIGOROUS)
    sources = propagate(problem, feasible_flips)
    level = level_of(program.nodes[0], sources[1], Known(problem, sources, RELAXATIONS["joint"]))
    assert isinstance(level, Pooling)
    a, nothing = torch.randn(4, 2, 1, 1, 3).double(), torch.zeros(4, 1).double()
    error: Tensor = level.pull(Forms(a, nothing, nothing)).error
    assert (error >= level.maxima.lost(a)).all() and (level.maxima.lost(a) > 0).all()
