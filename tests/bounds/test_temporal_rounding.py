"""Rounding over time, where nothing is chosen and the exact values are known: each error term for itself."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from soundness import true_margins
from temporal import backward
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.filters import Filtered, rounding
from certsnn.bounds.interval.arithmetic import RIGOROUS, Interval
from certsnn.bounds.interval.frames import BoundedFrames
from certsnn.bounds.interval.joints import Part
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.backward import Forms
from certsnn.bounds.linear.levels import Known, level_of
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.recurrence import FiringBack
from certsnn.filters import Synapse, filtered
from certsnn.inputsets import LinfFrames
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF
from certsnn.readouts import ReadoutName
from certsnn.recurrence import Recurrent

POINT = LinfFrames(0.0, -9, 9)
DOWN, UP = 2.0**-25, 1.5 * 2.0**-24
"""Fifteen of them after a 1: float32 sums lose the former, and round up by the latter."""


@pytest.mark.parametrize(("outputs", "readout"), [(nn.Identity(), "sum"), (Synapse(1.0), "last")], ids=str)
@pytest.mark.parametrize(("own", "rival"), [(DOWN, 0.0), (0.0, UP), (DOWN, UP)])
def test_what_additions_over_time_round_off_is_covered(
    own: float, rival: float, outputs: nn.Module, readout: ReadoutName
) -> None:
    """The input's frames are summed up as they are, by the readout or before it."""
    nodes = {"beside": (LIF(), ["input"]), "outputs": (outputs, ["input"])}
    network = SpikingNetwork.from_graph(nodes, 16, readout, "frames").eval()
    x, y = torch.tensor([own, rival]).repeat(16, 1, 1), torch.tensor([0])
    x[0] = (x[0] > 0).float()
    with torch.no_grad():
        executed = true_margins(network(x), y)
        exact = true_margins(x.double().sum(0), y)
        found = margin_bounds(network, x, y, POINT, rounding=True)
    assert (executed < exact).all(), "the example shows nothing"
    for margins in (found, backward(network, x, y, POINT, RIGOROUS)):
        assert (margins <= executed).all()
        assert (margins > executed - 1e-4).all()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor can't flush subnormals")
def test_sums_that_a_processor_takes_as_zero_are_covered() -> None:
    """Sixteen subnormal outputs add up to the least normal number, or to 0 where they are flushed."""
    nodes = {"beside": (LIF(), ["input"]), "outputs": (nn.Identity(), ["input"])}
    network = SpikingNetwork.from_graph(nodes, 16, "sum", "frames").eval()
    x, y = torch.tensor([2.0**-130, 0.0]).repeat(16, 1, 1), torch.tensor([0])
    with torch.no_grad():
        found = margin_bounds(network, x, y, POINT, rounding=True)
        torch.set_flush_denormal(True)
        try:
            executed = true_margins(network(x), y)
        finally:
            torch.set_flush_denormal(False)
    assert executed.tolist() == [[0.0]] and (found <= 0).all()


@pytest.mark.parametrize("moving", [0, 1])
@pytest.mark.parametrize("readout", ["sum", "last", "maximum"])
def test_what_the_products_of_one_step_round_off_is_covered(readout: ReadoutName, moving: int) -> None:
    """One class stays at 0, the other one is at the last step alone what is left of large terms."""
    generator = torch.Generator().manual_seed(moving)
    outputs = nn.Linear(40, 2, bias=False)
    large = 1000 * torch.rand(20, generator=generator)
    outputs.weight.data.zero_()
    outputs.weight.data[moving] = torch.cat([large, torch.rand(20, generator=generator) - large])
    nodes = {"beside": (LIF(), ["input"]), "outputs": (outputs, ["input"])}
    network = SpikingNetwork.from_graph(nodes, 3, readout, "frames").eval()
    half = torch.rand(200, 20, generator=generator)
    x, y = torch.zeros(3, 200, 40), torch.zeros(200, dtype=torch.long)
    x[2] = torch.cat([half, half], 1)
    with torch.no_grad():
        executed = true_margins(network(x), y)
        exact = true_margins(outputs.double()(x[2].double()), y)
        outputs.float()
    assert (executed < exact).any(), "the example shows nothing"
    for margins in (
        backward(network, x, y, POINT, RIGOROUS),
        margin_bounds(network, x, y, POINT, rounding=True),
    ):
        assert (margins <= executed).all()


@pytest.mark.parametrize("other", [DOWN, UP])
def test_what_each_step_of_a_filter_rounds_off_stays_there(other: float) -> None:
    """Every one of 64 steps is rounded the same way, and a filter without decay keeps it all."""
    x = torch.full((64, 1, 1), other)
    x[0] = 1
    sums = filtered(x, torch.tensor(1.0), 64).double().cumsum(0)
    for sign in (1, -1):
        part = Part(BoundedFrames(Interval(sign * x, sign * x)), ())
        values = Filtered((part,), RIGOROUS, torch.float32, torch.tensor(1.0))
        low, high = values.charge((), RIGOROUS).sums
        assert (low <= sign * sums).all() and (sign * sums <= high).all()


def test_the_product_of_a_filter_is_rounded_where_its_sum_is_zero() -> None:
    """The second current takes away what is left of the first, as executed: but for its error."""
    first, decay = 0.5 + torch.rand(1, 50, generator=torch.Generator().manual_seed(0)) / 2, torch.tensor(0.9)
    x = torch.stack([first, -(decay * first)])
    values = filtered(x, decay, 2)
    lost = (decay.double() * first.double() + x[1].double()).abs()
    source = BoundedFrames(Interval(values, values))
    assert not values[1].any() and bool((lost > 0).any())
    assert (lost <= rounding(source, decay, RIGOROUS)[1]).all()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor can't flush subnormals")
def test_products_of_a_filter_that_a_processor_takes_as_zero_are_covered() -> None:
    x, decay = torch.tensor([2.0**-126, 0.0]).view(2, 1, 1), torch.tensor(0.5)
    torch.set_flush_denormal(True)
    try:
        values = filtered(x, decay, 2)
    finally:
        torch.set_flush_denormal(False)
    lost = rounding(BoundedFrames(Interval(values, values)), decay, RIGOROUS)[1]
    assert float(values[1]) == 0 and float(lost) >= 2.0**-127


def first_step(network: SpikingNetwork, x: Tensor, threat: LinfFrames = POINT) -> tuple[Tensor, FiringBack]:
    """The executed membranes of the first step, and the level of the recurrent layer."""
    program = network.freeze()
    input_set = threat.bind(x, torch.arange(x.shape[1]))[1]
    problem = pose(program, x, torch.zeros(x.shape[1], dtype=torch.long), input_set, RIGOROUS)
    sources = propagate(problem, feasible_flips)
    level = level_of(program.nodes[0], sources[1], Known(problem, sources, RELAXATIONS["joint"]))
    assert isinstance(level, FiringBack) and level.error is not None
    return program.traces(x)[0].membranes[0], level


@torch.no_grad()
def test_the_rounded_addition_of_the_feedback_is_covered() -> None:
    """A current of about 1.3, which the initial membrane cancels, and a feedback of about 0.001."""
    back = nn.Linear(40, 40)
    back.weight.data.zero_()
    back.bias.data = 1e-3 * torch.rand(40, generator=torch.Generator().manual_seed(0))
    network = SpikingNetwork([Recurrent(LIF(0.3, 0.9, initial=-1.3), back)], 2, "rate", "frames").eval()
    x = torch.full((2, 1, 40), 1.3)
    u, level = first_step(network, x)
    lost = (u - (torch.tensor(-1.3).double() + x[0].double() + back.bias.double())).abs()
    assert float(lost.max()) > 1e-8 and (lost <= level.error[0]).all()


@torch.no_grad()
def test_forms_hold_where_rounding_alone_makes_a_neuron_fire() -> None:
    """The executed membrane of the second step is the threshold, and the exact one is below."""
    generator = torch.Generator().manual_seed(8)
    first, back = nn.Linear(40, 1, bias=False), nn.Linear(1, 1, bias=False)
    large = 1000 * torch.rand(1, 20, generator=generator)
    first.weight.data = torch.cat([large, torch.rand(1, 20, generator=generator) - large], 1)
    half = torch.rand(200, 20, generator=generator)
    rows = torch.cat([half, half], 1)
    up = first(rows)[:, 0] - first.double()(rows.double())[:, 0]
    row = rows[up.argmax()]
    threshold = float(first.float()(row[None]))
    back.weight.data.zero_()
    layers = [first, Recurrent(LIF(threshold, 0.0), back)]
    network = SpikingNetwork(layers, 2, "rate", "frames").eval()
    x = torch.stack([torch.zeros(1, 40), row[None]])
    assert float(up.max()) > 1e-5 and network.freeze().traces(x)[0].spikes.flatten().tolist() == [0, 1]
    _, level = first_step(
        network, x, LinfFrames(1e-6, -9, 9)
    )  # so narrow that the first step rounds next to nothing
    a = torch.tensor([0.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1)
    spread = level.pull(Forms(a, torch.zeros(1, 1).double(), torch.zeros(1, 1).double()))
    ((_, carried),) = spread.coefficients
    assert bool(carried.any()), "the example shows nothing"
    assert float((carried[0] * x).sum() + spread.constant - spread.error) <= -1


@torch.no_grad()
def test_the_float64_sums_of_a_pass_through_feedback_are_covered() -> None:
    """A neuron that always fires: a form of its spikes is the sum of its coefficients, here in fractions."""
    back = nn.Linear(1, 1, bias=False)
    back.weight.data.zero_()
    network = SpikingNetwork([Recurrent(LIF(0.3, 0.0), back)], 16, "rate", "frames").eval()
    _, level = first_step(network, torch.ones(16, 1, 1))
    for first, other in ((1.0, 1.5 * 2.0**-53), (-1.0, -(2.0**-54))):
        coefficients = torch.full((1, 16, 1, 1), other, dtype=torch.float64)
        coefficients[0, -1] = first
        nothing = torch.zeros(1, 1, dtype=torch.float64)
        spread = level.pull(Forms(coefficients, nothing, nothing))
        exact = Fraction(first) + 15 * Fraction(other)
        assert Fraction(float(spread.constant)) > exact, "the example shows nothing"
        assert Fraction(float(spread.constant)) - Fraction(float(spread.error)) <= exact
