"""Parameters per channel and per neuron: a layer of them is its neurons side by side."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamics import dynamics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_spike import ReferenceSpike
from strategies import Drawn, neurons
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, Interval
from certsnn.bounds.interval.scans import HeldCurrent, Summed, scan_counts, scan_steps
from certsnn.bounds.linear.alpha import Slack, chosen_slopes
from certsnn.bounds.linear.lines import Neuronwise, Stepwise, Tracked, scan_back
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.dynamics import Dynamics
from certsnn.inputsets import FreeSpikes, LinfBall, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.scan import scan

STEPS, BATCH = 5, 2


@st.composite
def layers(draw: st.DrawFn) -> tuple[Dynamics, tuple[int, ...], Tensor]:
    """Neurons, a sample's shape, and currents ``[T, B, ...]`` that meet thresholds exactly now and then."""
    numbers = Drawn("dyadic", draw(st.sampled_from([1.0, 0.5])), draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(3,), (2, 2, 3)]))
    neuron = draw(neurons(numbers, shape))
    return neuron.dynamics(), shape, numbers.weights(torch.Size((STEPS, BATCH, *shape)), 1)


def alone(dynamics: Dynamics, shape: tuple[int, ...], place: int) -> Dynamics:
    """One neuron of a layer, by scalars."""
    numbers = [number.detach().expand(shape).flatten()[place] for number in dynamics.numbers()]
    return dynamics._replace(**dynamics_of(numbers, dynamics.lossless)._asdict())


def each(shape: tuple[int, ...]) -> range:
    return range(math.prod(shape))


def column(x: Tensor, place: int) -> Tensor:
    """One neuron of ``[T, B, ...]``, as a layer ``[T, B, 1]``."""
    return x.flatten(2)[:, :, [place]]


@settings(max_examples=60)
@given(layers())
def test_traces_and_intervals_are_those_of_each_neuron_by_itself(
    drawn: tuple[Dynamics, tuple[int, ...], Tensor],
) -> None:
    dynamics, shape, currents = drawn
    box = Interval(currents - 0.125, currents + 0.125)
    sums = Interval(*(end.cumsum(0) for end in box))
    held = HeldCurrent(Interval(*(end[:1] for end in box)), STEPS)
    with torch.no_grad():
        trace, steps = scan(currents, dynamics), scan_steps(box, dynamics)
        counts = [scan_counts(charge, dynamics, FLOAT32_UNIT) for charge in (Summed(sums), held)]
        for place in each(shape):
            one = alone(dynamics, shape, place)
            own = scan(column(currents, place), one)
            assert all(
                torch.equal(column(found, place), wanted) for found, wanted in zip(trace, own, strict=True)
            )
            parts = scan_steps(Interval(*(column(end, place) for end in box)), one)
            for mine, theirs in zip(steps, parts, strict=True):
                assert all(torch.equal(column(x, place), y) for x, y in zip(mine, theirs, strict=True))
            charges = [
                Summed(Interval(*(column(end, place) for end in sums))),
                HeldCurrent(Interval(*(column(end, place) for end in held.current)), STEPS),
            ]
            for all_of_them, charge in zip(counts, charges, strict=True):
                single = scan_counts(charge, one, FLOAT32_UNIT)
                for x, y in zip(all_of_them.counts, single.counts, strict=True):
                    assert torch.equal(column(x, place), y)


def slack_of(x: Tensor, generator: torch.Generator) -> Slack:
    share, mix = (torch.rand(x.shape, generator=generator, dtype=x.dtype)[:, None] for _ in range(2))
    return Slack(share, mix)


Make = Callable[[Interval, Dynamics, Slack], Stepwise]
MAKERS: dict[str, Make] = {
    **{name: lambda u, dynamics, _, make=make: make(u, dynamics) for name, make in RELAXATIONS.items()},  # type: ignore[misc]
    "chosen": chosen_slopes,
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25)
@given(drawn=layers(), seed=st.integers(0, 2**32 - 1))
def test_lines_are_those_of_each_neuron_by_itself(
    name: str, drawn: tuple[Dynamics, tuple[int, ...], Tensor], seed: int
) -> None:
    dynamics, shape, currents = drawn
    generator = torch.Generator().manual_seed(seed)
    double = dynamics.mapped(lambda number: number.detach().double())
    u = Interval(currents.double() - 0.3, currents.double() + 0.3)
    slack = slack_of(u.lower, generator)
    a = torch.randn(2, *u.lower.shape, generator=generator, dtype=torch.float64)
    lines = MAKERS[name](u, double, slack)
    found, short = lines.pull(a), lines.until(3).pull(a[:, :3])
    carried = lines.pull_carried(a, a[:, 0])
    total = [torch.zeros_like(found.constant) for _ in range(3)]
    for place in each(shape):
        one = alone(double, shape, place)
        part = Interval(*(column(end, place) for end in u))
        share, mix = (values.flatten(3)[..., [place]] for values in (slack.share, slack.mix))
        own = MAKERS[name](part, one, Slack(share, mix))
        b = a.flatten(3)[..., [place]]
        pulled = own.pull(b), own.until(3).pull(b[:, :3]), own.pull_carried(b, b[:, 0])
        for k, (mine, theirs) in enumerate(zip((found, short, carried), pulled, strict=True)):
            torch.testing.assert_close(mine.currents.flatten(3)[..., [place]], theirs.currents)
            total[k] = total[k] + theirs.constant
        if isinstance(lines, Neuronwise) and isinstance(own, Neuronwise):
            which = torch.full((2, BATCH), place)
            for whole, single in ((lines, own), (lines.until(3), own.until(3))):
                at = whole.carried_at(which, b[:, 0])
                torch.testing.assert_close([*at], [*single.pull_carried(None, b[:, 0])])
    for mine, sums in zip((found, short, carried), total, strict=True):
        torch.testing.assert_close(mine.constant, sums)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25)
@given(drawn=layers(), seed=st.integers(0, 2**32 - 1))
def test_lines_of_gathered_neurons_are_their_own(
    name: str, drawn: tuple[Dynamics, tuple[int, ...], Tensor], seed: int
) -> None:
    """Other neurons at each step, as in a network cut down to its active ones; none of them is followed."""
    dynamics, shape, currents = drawn
    generator = torch.Generator().manual_seed(seed)
    double = dynamics.mapped(lambda number: number.detach().double())
    index = torch.randint(math.prod(shape), (STEPS, BATCH, 2), generator=generator)
    u = Interval(*(x.double().flatten(2).gather(2, index) for x in (currents - 0.3, currents + 0.3)))
    slack = slack_of(u.lower, generator)
    a = torch.randn(2, *u.lower.shape, generator=generator, dtype=torch.float64)
    gone = torch.full((STEPS - 1, BATCH, 2), 2)
    left = double.gathered(shape, index)
    for steps in (STEPS, 2):
        lines = Tracked(MAKERS[name](u, left, slack), gone).until(steps)
        found = lines.pull(a[:, :steps])
        one_by_one = scan_back(lines.lines, a[:, :steps], torch.zeros_like(a[:, 0]), lines.follow)
        torch.testing.assert_close([*found], [*one_by_one])
        constant = torch.zeros_like(found.constant)
        for t, b, m in torch.cartesian_prod(*map(torch.arange, (steps, BATCH, 2))).tolist():
            one = alone(double, shape, int(index[t, b, m]))
            if t:  # nothing is carried on from the steps before
                one = one._replace(initial=torch.zeros_like(one.initial))
            place = (slice(t, t + 1), slice(b, b + 1), slice(m, m + 1))
            rows, whole = (place[0], slice(None), *place[1:]), (slice(None), *place)
            own = MAKERS[name](
                Interval(*(end[place] for end in u)), one, Slack(*(x[rows] for x in (slack.share, slack.mix)))
            )
            k, more = own.pull(a[whole])
            torch.testing.assert_close(found.currents[:, t, b, m], k[:, 0, 0, 0])
            constant[:, b] += more[:, 0]
        torch.testing.assert_close(found.constant, constant)


def plain_scan(x: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """The equations, a step at a time under autograd."""
    d = neuron.dynamics()
    v, rows = d.initial, []
    for current in x:
        u = v + current
        s = ReferenceSpike.apply(u - d.threshold, d.surrogate)
        v = s * (d.gain * u + d.offset) + (1 - s) * (d.decay * u)
        rows.append((u, s))
    return torch.stack([u for u, _ in rows]), torch.stack([s for _, s in rows])


@pytest.mark.parametrize("reset", ["zero", "subtract", 0.25, (0.5, -0.25)], ids=str)
@pytest.mark.parametrize("size", [(3, 1, 1), (3, 2, 2), (1, 2, 1)], ids=str)
def test_trained_parameters_get_the_gradients_of_the_equations(reset: Any, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    neuron = LIF(
        0.5 + torch.rand(size), 0.9 * torch.rand(size), reset, 0.2 * torch.rand(size), None, True, True
    )
    neuron.double()
    x = torch.randn(6, 4, 3, 2, 2, dtype=torch.float64).add(0.4).requires_grad_()
    weights = torch.randn(2, *x.shape, dtype=torch.float64)
    gradients = []
    for membranes, spikes in (scan(x, neuron.dynamics()), plain_scan(x, neuron)):
        form = (membranes * weights[0]).sum() + (spikes * weights[1]).sum()
        gradients.append(torch.autograd.grad(form, (x, neuron.threshold, neuron.decay)))
    for mine, theirs in zip(*gradients, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs)
    assert neuron.threshold.shape == neuron.decay.shape == neuron.initial.shape == size


def test_resets_per_neuron_are_saved_and_move_with_the_network() -> None:
    size, given_value = (3,), torch.tensor([0.1, 0.2, 0.3])
    value = LIF(1.0, 0.5, given_value)
    given_value.fill_(9.0)  # a neuron has a copy
    pair = LIF(1.0, 0.5, (torch.tensor([0.5, 0.0, 1.0]), -0.5))
    assert {*value.state_dict()} == {"threshold", "decay", "initial", "reset_to"}
    assert {*pair.state_dict()} == {"threshold", "decay", "initial", "reset_gain"}
    assert {*LIF(1.0, 0.5, (0.5, -0.5)).state_dict()} == {"threshold", "decay", "initial"}
    other = LIF(1.0, 0.5, torch.zeros(size))
    other.load_state_dict(value.state_dict())
    assert torch.equal(other.dynamics().offset, torch.tensor([0.05, 0.1, 0.15]))
    assert other.double().dynamics().offset.dtype == torch.float64
    dynamics = copy.deepcopy(pair).dynamics()
    assert dynamics.gain.tolist() == [0.5, 0.0, 1.0]
    assert float(dynamics.offset) == -0.5
    pair.reset = "zero"
    assert {*pair.state_dict()} == {"threshold", "decay", "initial"}
    assert "reset=[3] in [0.1, 0.3]" in repr(value)
    with pytest.raises(RuntimeError, match="size mismatch for threshold"):
        LIF().load_state_dict(LIF(torch.ones(2)).state_dict())


def test_charge_is_conserved_by_a_layer_as_a_whole() -> None:
    assert IF(torch.tensor([0.5, 1.0])).dynamics().lossless
    assert LIF(1.0, torch.ones(2), "subtract").dynamics().lossless
    assert not LIF(1.0, torch.tensor([1.0, 0.5]), "subtract").dynamics().lossless
    assert not IF(1.0, (torch.tensor([1.0, 0.5]), -1.0)).dynamics().lossless


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": torch.tensor([1.0, 0.0])}, "threshold must be at least 1e-06, got 0"),
        ({"threshold": torch.tensor([1.0, math.nan])}, "threshold must be a finite number"),
        ({"decay": torch.tensor([0.5, 1.5])}, r"decay must lie in \[0, 1\], got 1.5"),
        ({"reset": torch.tensor([0.5, math.inf])}, "reset must be a finite number"),
        ({"reset": (torch.tensor([0.5, -0.5]), 0.0)}, "gain of the upper branch must be >= 0"),
        ({"initial": torch.tensor([0.5, -math.inf])}, "initial must be a finite number"),
    ],
    ids=str,
)
def test_parameter_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LIF(**arguments)


DENSE = [nn.Flatten(), nn.Linear(4, 4)]
MISFITS: dict[str, tuple[list[nn.Module], str]] = {
    "too few": ([*DENSE, LIF(torch.ones(3))], r"threshold of layers.2 has the shape \[3\]"),
    "enlarging": (
        [nn.Flatten(), nn.Linear(4, 1), LIF(1.0, torch.ones(3))],
        r"decay of layers.2 .* are \[1\]",
    ),
    "more axes": ([*DENSE, LIF(initial=torch.ones(1, 4))], r"initial of layers.2 .* \[1, 4\]"),
    "a reset": ([*DENSE, LIF(reset=torch.ones(3))], r"offset of layers.2 has the shape \[3\]"),
    "channels without axes": (
        [nn.Conv2d(1, 2, 1), LIF(torch.ones(2)), nn.Flatten(), nn.Linear(8, 2), LIF()],
        r"threshold of layers.1 has the shape \[2\], and its membranes are \[2, 2, 2\]",
    ),
}


def test_parameters_that_do_not_fit_each_other_are_refused_when_a_network_is_made() -> None:
    with pytest.raises(ValueError, match="do not fit each other"):
        SpikingNetwork([*DENSE, LIF(torch.ones(3), torch.ones(4), "subtract")], 3)


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("kind", ["image", "spikes"])
def test_shapes_that_do_not_fit_are_refused_by_the_layer_name(name: str, kind: Any) -> None:
    layers, message = MISFITS[name]
    network = SpikingNetwork(layers, 3, "rate", kind)
    x = torch.ones(2, 1, 2, 2) if kind == "image" else torch.ones(3, 2, 1, 2, 2)
    threat: Threat = LinfBall(0.1) if kind == "image" else FreeSpikes(0.5, seed=1)
    for train in (False, True):
        with pytest.raises(ValueError, match=message):
            network.train(train)(x)
    with pytest.raises(ValueError, match=message):
        margin_bounds(network.eval(), x, torch.tensor([0, 0]), threat)
