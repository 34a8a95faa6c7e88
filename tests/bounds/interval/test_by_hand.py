"""Interval arithmetic and the two scans of a neuron, by hand."""

from __future__ import annotations

import pytest
import torch
from reference_spike import ReferenceSpike
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import Interval, layer_bounds
from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, PLAIN, RIGOROUS
from certsnn.bounds.interval.layers import Held, Spikes
from certsnn.bounds.interval.scans import (
    Summed,
    membranes_of_counts,
    scan_counts,
    scan_steps,
    steps_of_counts,
)
from certsnn.dynamics import RESET_FIRST, Dynamics
from certsnn.inputsets import LinfBall
from certsnn.layers import Normalize, as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Reset
from certsnn.surrogates import Triangle


def column(*values: float) -> Tensor:
    """A train ``[T, 1, 1]``."""
    return torch.tensor(values)[:, None, None]


def flat(interval: Interval) -> tuple[list[float], list[float]]:
    return interval.lower.flatten().tolist(), interval.upper.flatten().tolist()


# Affine operators.


def test_a_dense_layer_by_hand() -> None:
    dense = Dense(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([0.5, -1.0]))
    box = Interval(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    # row 1: 0 - 4 + 0.5 ... 1 - 2 + 0.5; row 2: 3 - 1 ... 6 - 1
    assert flat(PLAIN.chain([dense], box)) == ([-3.5, 2.0], [-0.5, 5.0])
    # sums of 3 and of 2 inputs: the bias counts as often
    sums = Interval(box.lower.repeat(2, 1), box.upper.repeat(2, 1))
    found = flat(PLAIN.chain([dense], sums, torch.tensor([3.0, 2.0])))
    assert found == ([-2.5, 0.0, -3.0, 1.0], [0.5, 3.0, 0.0, 4.0])


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(6, 4)],
        [nn.Linear(6, 4, bias=False), nn.Linear(4, 3)],
        [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2, padding=1), nn.AvgPool2d(2)],
        [nn.Unflatten(1, (1, 2, 3)), Normalize([0.3], [0.2]), nn.Conv2d(1, 2, 2)],
    ],
    ids=["linear", "two linear", "conv and pool", "normalize and conv"],
)
def test_rigorous_bounds_hold_for_both_ends_and_stay_tight(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    shape = layers[0].unflattened_size if isinstance(layers[0], nn.Unflatten) else (6,)
    operators = [as_affine(layer) for layer in layers if not isinstance(layer, nn.Unflatten)]
    low = torch.randn(50, *shape)
    high = low + torch.rand(50, *shape) * (torch.rand(50, *shape) < 0.5)
    plain, rigorous = (a.chain(operators, Interval(low, high)) for a in (PLAIN, RIGOROUS))
    assert rigorous.lower.dtype == torch.float64
    # The rigorous bounds contain the exact ones, in float64 ...
    exact = Interval(low.double(), high.double())
    for operator in operators:
        wide = operator.to(torch.float64)
        centre, radius = (exact.lower + exact.upper) / 2, (exact.upper - exact.lower) / 2
        centre, radius = wide.apply(centre), wide.magnitude(radius)
        exact = Interval(centre - radius, centre + radius)
    assert (rigorous.lower < exact.lower).all()
    assert (rigorous.upper > exact.upper).all()
    # ... by rounding errors only.
    torch.testing.assert_close(rigorous.lower, exact.lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rigorous.upper, exact.upper, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.lower.double(), exact.lower, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.upper.double(), exact.upper, rtol=1e-4, atol=1e-5)


def test_the_rounding_error_is_highams() -> None:
    assert RIGOROUS.unit == FLOAT32_UNIT == 2.0**-24
    for terms in (1, 10, 10_000):
        k = terms + 2
        assert RIGOROUS.gamma(terms) >= k * 2.0**-24 / (1 - k * 2.0**-24)
        assert RIGOROUS.gamma(terms) == pytest.approx(k * 2.0**-24, rel=2e-3)
        assert PLAIN.gamma(terms) == 0
    dense = Dense(torch.tensor([[3.0, -4.0]]), torch.tensor([2.0]))
    point = torch.tensor([[1.0, -2.0]])
    low, high = RIGOROUS.chain([dense], Interval(point, point))
    error = RIGOROUS.gamma(2) * (3 + 8 + 2)
    assert float(high) - 13 == pytest.approx(error, rel=1e-6)
    assert 13 - float(low) == pytest.approx(error, rel=1e-6)


def test_images_enter_every_step() -> None:
    dense = Dense(torch.tensor([[2.0, -1.0]]), torch.tensor([0.5]))
    box = Interval(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.5]]))
    source = Held(box, 3)
    assert flat(source.currents([dense], PLAIN)) == ([0.0], [2.5])  # one frame for all steps
    assert flat(source.charge([dense], PLAIN).sums) == ([0.0] * 3, [2.5, 5.0, 7.5])


def test_spikes_are_summed_before_the_product() -> None:
    dense = Dense(torch.tensor([[2.0, -1.0]]), torch.tensor([0.5]))
    low = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])[:, None]
    high = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[:, None]
    source = Spikes(Interval(low, high))
    assert flat(source.currents([dense], PLAIN)) == ([1.5, 0.5, 1.5], [2.5, 2.5, 1.5])
    assert flat(source.charge([dense], PLAIN).sums) == ([1.5, 2.0, 3.5], [2.5, 5.0, 6.5])


# Neurons, step by step.

STEPS: dict[str, tuple[Neuron, list[tuple[float, float]], list[tuple[float, float, int, int]]]] = {
    # neuron; currents (low, high); by hand: u low, u high, s low, s high
    "stays silent": (
        LIF(1.0, 0.5),
        [(-1.0, 0.5), (0.0, 0.5)],
        [(-1.0, 0.5, 0, 0), (-0.5, 0.75, 0, 0)],
    ),
    "surely fires, from the threshold itself": (
        LIF(1.0, 0.5, "subtract"),
        [(1.0, 2.0), (0.5, 0.5)],
        # v in [0.5 - 0.5, 1 - 0.5]
        [(1.0, 2.0, 1, 1), (0.5, 1.0, 0, 1)],
    ),
    "may fire at the threshold": (
        LIF(1.0, 0.5),
        [(0.5, 1.0), (0.0, 0.0)],
        # silent: [0.25, 0.5); fired: 0
        [(0.5, 1.0, 0, 1), (0.0, 0.5, 0, 0)],
    ),
    "unstable, reset below all silent values": (
        LIF(1.0, 0.5, -2.0),
        [(0.5, 3.0), (0.25, 0.25)],
        # silent: [0.25, 0.5); fired: -1
        [(0.5, 3.0, 0, 1), (-0.75, 0.75, 0, 0)],
    ),
    "unstable, reset above all silent values": (
        LIF(1.0, 0.5, 3.0),
        [(0.5, 3.0), (0.25, 0.25)],
        # silent: [0.25, 0.5); fired: 1.5
        [(0.5, 3.0, 0, 1), (0.5, 1.75, 0, 1)],
    ),
    "unstable, subtraction": (
        LIF(1.0, 0.5, "subtract"),
        [(-1.0, 3.0), (0.0, 0.0)],
        # silent: [-0.5, 0.5); fired: [0, 1]
        [(-1.0, 3.0, 0, 1), (-0.5, 1.0, 0, 1)],
    ),
    "unstable, the threshold's own carry is the least": (
        LIF(1.0, 1.0, (2.0, -3.0)),
        [(0.5, 1.5), (0.0, 0.0)],
        # silent: [0.5, 1); fired: [2 - 3, 3 - 3]
        [(0.5, 1.5, 0, 1), (-1.0, 1.0, 0, 1)],
    ),
    "initial potential": (LIF(1.0, 0.5, initial=0.75), [(0.0, 0.25)], [(0.75, 1.0, 0, 1)]),
    "no memory": (
        LIF(1.0, 0.0, 5.0),
        [(0.0, 2.0), (0.25, 0.75)],
        [(0.0, 2.0, 0, 1), (0.25, 0.75, 0, 0)],
    ),
    "a point": (
        LIF(1.0, 0.5, "subtract"),
        [(1.5, 1.5), (0.75, 0.75), (0.5, 0.5)],
        [(1.5, 1.5, 1, 1), (1.0, 1.0, 1, 1), (0.5, 0.5, 0, 0)],
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_by_hand(name: str) -> None:
    neuron, currents, expected = STEPS[name]
    low, high = (column(*ends) for ends in zip(*currents, strict=True))
    membranes, spikes = scan_steps(Interval(low, high), neuron.dynamics())
    found = zip(*flat(membranes), *flat(spikes), strict=True)
    assert list(found) == expected


# Neurons, in the count domain.


def test_counts_by_hand() -> None:
    # Threshold 1, cumulative currents in [0.5 t, 0.75 t].
    # Lower: u = 0.5, 1 (fires), 0.5, 1 (fires).
    # Upper: u = 0.75, 1.5 (fires), 1.25 (fires), 1 (fires).
    cumulative = Interval(column(0.5, 1.0, 1.5, 2.0), column(0.75, 1.5, 2.25, 3.0))
    dynamics = IF(1.0).dynamics()
    scanned = scan_counts(Summed(cumulative), dynamics, 0.0)
    assert flat(scanned.counts) == ([0, 1, 1, 2], [0, 1, 2, 3])
    assert scanned.error is None
    assert flat(steps_of_counts(scanned.counts)) == ([0, 1, 0, 0], [0, 1, 1, 1])
    low, high = flat(membranes_of_counts(cumulative, scanned, dynamics))
    # u_t = C_t - N_{t-1}: N_{t-1} in [0, 0], [0, 0], [1, 1], [1, 2]
    assert low == [0.5, 1.0, 0.5, 0.0]
    assert high == [0.75, 1.5, 1.25, 2.0]


def test_counts_with_a_reset_that_excites() -> None:
    # (gain, offset) = (1, 0.5): each spike adds charge, so more spikes mean more spikes.
    cumulative = Interval(column(0.5, 0.5, 0.5), column(1.0, 1.0, 1.0))
    dynamics = IF(1.0, (1.0, 0.5)).dynamics()
    scanned = scan_counts(Summed(cumulative), dynamics, 0.0)
    assert flat(scanned.counts) == ([0, 0, 0], [1, 2, 3])
    low, high = flat(membranes_of_counts(cumulative, scanned, dynamics))
    assert (low, high) == ([0.5, 0.5, 0.5], [1.0, 1.5, 2.0])


def test_counts_start_from_the_initial_potential() -> None:
    cumulative = Interval(column(0.25, 0.5), column(0.5, 1.0))
    dynamics = IF(1.0, initial=0.5).dynamics()
    scanned = scan_counts(Summed(cumulative), dynamics, 0.0)
    # lower: 0.75, 1 (fires); upper: 1 (fires), 0.5
    assert flat(scanned.counts) == ([0, 1], [1, 1])
    assert flat(membranes_of_counts(cumulative, scanned, dynamics)) == ([0.75, 0.0], [1.0, 1.5])


def test_counts_with_rounding_leave_a_tie_open() -> None:
    cumulative = Interval(column(1.0, 1.5, 2.0).double(), column(1.0, 1.5, 2.0).double())
    scanned = scan_counts(Summed(cumulative), IF(1.0).dynamics(), FLOAT32_UNIT)
    assert flat(scanned.counts) == ([0, 1, 1], [1, 1, 2])
    assert scanned.error is not None
    error = scanned.error.flatten()
    assert (error.diff() > 0).all()
    assert error[0] > 2.0**-24
    assert error[2] < 2.0**-18


@pytest.mark.parametrize("reset", ["zero", "subtract", 0.4, (0.5, -0.3)], ids=str)
def test_layers_in_either_domain_start_like_the_neuron(reset: Reset) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(
        [nn.Linear(4, 5), IF(0.5, reset, initial=0.1), nn.Linear(5, 2), LIF(0.3)], 4
    ).eval()
    x = torch.rand(3, 4)
    first = layer_bounds(network, x, LinfBall(0.0))[0]
    torch.testing.assert_close(first.membranes.lower[0], first.membranes.upper[0])
    assert first.membranes.lower.shape == first.spikes.upper.shape == (4, 3, 5)


def test_gradients_of_the_counts_are_those_of_the_simulation() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64).cumsum(0)
    cumulative = Interval(low.requires_grad_(), (low + 0.3).detach().requires_grad_())
    numbers = torch.tensor([0.4, 0.1, -0.4], dtype=torch.float64)
    threshold, initial, offset = (value.clone().requires_grad_() for value in numbers)
    one, surrogate = torch.ones((), dtype=torch.float64), Triangle(2.0)
    dynamics = Dynamics(threshold, one, initial, one, offset, True, surrogate, RESET_FIRST)

    def simulated(charges: Tensor) -> Tensor:
        n, counts = torch.zeros_like(charges[0]), []
        for charge in charges:
            u = initial + charge + offset * n
            n = n + ReferenceSpike.apply(u - threshold, surrogate)
            counts.append(n)
        return torch.stack(counts)

    weights = torch.randn(2, 5, 3, 2, generator=generator, dtype=torch.float64)
    inputs = (*cumulative, threshold, initial, offset)
    found = torch.stack([*scan_counts(Summed(cumulative), dynamics, 0.0).counts])
    expected = torch.stack([simulated(charges) for charges in cumulative])
    assert torch.equal(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs)
