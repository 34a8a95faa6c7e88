"""What is written out for speed equals the plain form of it: values bit for bit, gradients by autograd."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_spike import ReferenceSpike
from torch import Tensor, nn

from certsnn.affine import Convolution, Dense
from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, PLAIN, Interval
from certsnn.bounds.interval.propagate import margins, others
from certsnn.bounds.interval.scans import HeldCurrent, Summed, scan_counts, scan_steps
from certsnn.cli.allocator import keep_freed_memory
from certsnn.dynamics import RESET_FIRST, Dynamics, carry, carry_above, carry_below, fires
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Reset
from certsnn.scan import scan
from certsnn.surrogates import ArcTan, Rectangle, Surrogate, Triangle

SURROGATES: list[Surrogate] = [Rectangle(1.0), Triangle(2.0), ArcTan()]
RESETS: list[Reset] = ["zero", "subtract", 0.3, (0.5, -0.25), (3.0, 0.75)]
seeds = st.integers(0, 2**32 - 1)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wild(seed: int, *shape: int) -> Tensor:
    """Float32 numbers of all sizes, a few of them 0, the threshold 1 or next to it."""
    generator = generator_of(seed)
    sizes = 10.0 ** torch.randint(-44, 36, shape, generator=generator)
    x = torch.randn(shape, generator=generator) * sizes
    at = torch.tensor([0.0, -0.0, 1.0, 1 - 2**-24, 1 + 2**-23])
    special = at[torch.randint(0, len(at), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.3, special, x)


def select(u: Tensor, dynamics: Dynamics) -> Tensor:
    return torch.where(u >= dynamics.threshold, carry_above(u, dynamics), carry_below(u, dynamics))


@given(seeds, st.sampled_from(RESETS), st.sampled_from([1.0, 0.3]), st.sampled_from([5, 64, 203]))
def test_spikes_and_what_is_carried_are_those_of_the_branches(
    seed: int, reset: Reset, decay: float, size: int
) -> None:
    dynamics = LIF(1.0, decay, reset).dynamics()
    for u in (wild(seed, 2, size), wild(seed, 2, size).double()):
        fired = fires(u, dynamics)
        assert fired.dtype == u.dtype
        assert torch.equal(fired, (u >= dynamics.threshold).to(u.dtype))
        assert torch.equal(carry(u, fired, dynamics), select(u, dynamics))


def test_a_membrane_that_is_not_a_number_is_silent_and_shows_in_the_gradient() -> None:
    for neuron in (IF(1.0), LIF(1.0, 0.5)):
        x = torch.full((2, 1, 40), torch.nan).requires_grad_()
        spikes = neuron(x)
        assert not spikes.any()
        spikes.sum().backward()
        assert x.grad is not None
        assert x.grad[0].isnan().all()


def dynamics_of(
    shape: tuple[int, ...], lossless: bool, surrogate: Surrogate, generator: torch.Generator
) -> Dynamics:
    """Parameters that all require gradients."""

    def number(value: float) -> Tensor:
        noise = 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64)
        return (value + noise).requires_grad_()

    threshold, decay, initial, gain, offset = map(number, (0.8, 0.7, 0.2, 0.5, -0.3))
    if lossless:
        decay, gain = (torch.ones(shape, dtype=torch.float64).requires_grad_() for _ in range(2))
    return Dynamics(threshold, decay, initial, gain, offset, lossless, surrogate, RESET_FIRST)


def plain_fire(u: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    s = ReferenceSpike.apply(u - dynamics.threshold, dynamics.surrogate)
    return s, s * (dynamics.gain * u + dynamics.offset) + (1 - s) * (dynamics.decay * u)


def plain_steps(low: Tensor, high: Tensor, dynamics: Dynamics) -> list[Tensor]:
    """The table of `certsnn.bounds.interval.scans`, a step at a time under autograd."""
    least_fired = dynamics.gain * dynamics.threshold + dynamics.offset
    most_silent = dynamics.decay * dynamics.threshold
    v_low = v_high = dynamics.initial.expand(low.shape[1:])
    rows = []
    for current_low, current_high in zip(low, high, strict=True):
        u_low, u_high = v_low + current_low, v_high + current_high
        s_low, v_low = plain_fire(u_low, dynamics)
        s_high, v_high = plain_fire(u_high, dynamics)
        unstable = s_low != s_high
        v_low = torch.where(unstable, torch.minimum(v_low, least_fired), v_low)
        v_high = torch.where(unstable, torch.maximum(v_high, most_silent), v_high)
        rows.append((u_low, u_high, s_low, s_high))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def assert_same_gradients(
    found: Sequence[Tensor], expected: Sequence[Tensor], inputs: Sequence[Tensor], seed: int
) -> None:
    """The same values, and the same gradients of a random linear form of them."""
    generator = generator_of(seed)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in expected]
    gradients = []
    for outputs in (found, expected):
        for mine, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(mine, theirs)
        form = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        assert isinstance(form, Tensor)
        gradients.append(torch.autograd.grad(form, inputs, retain_graph=True))
    for mine, theirs in zip(*gradients, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_the_step_scan(
    surrogate: Surrogate, shape: tuple[int, ...], lossless: bool, seed: int
) -> None:
    generator = generator_of(seed)
    dynamics = dynamics_of(shape, lossless, surrogate, generator)
    low = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64).add(0.3)
    width = torch.rand(6, 5, 3, generator=generator, dtype=torch.float64)
    width[:, 0] = 0  # a sample whose intervals are points, and single points in the others
    width[torch.rand(6, 5, 3, generator=generator) < 0.2] = 0
    high = (low + width).requires_grad_()
    low.requires_grad_()
    scanned = scan_steps(Interval(low, high), dynamics)
    expected = plain_steps(low, high, dynamics)
    unstable = expected[2] != expected[3]
    assert 0.1 < float(unstable.double().mean()) < 0.9
    found = [*scanned.membranes, *scanned.spikes]
    assert all(map(torch.equal, found[2:], expected[2:]))
    assert_same_gradients(found, expected, (low, high, *dynamics.numbers()), seed)
    # Training asks for the spikes alone.
    assert_same_gradients(found[2:], expected[2:], (low, high, dynamics.threshold), seed)


@given(seeds, st.sampled_from(RESETS), st.sampled_from([0.3, 1.0]))
def test_the_step_scan_is_the_table_bit_for_bit(seed: int, reset: Reset, decay: float) -> None:
    dynamics = LIF(1.0, decay, reset, initial=0.25).dynamics()
    one, other = wild(seed, 4, 2, 33), wild(seed + 1, 4, 2, 33)
    v_low = v_high = dynamics.initial.expand(2, 33)
    scanned = scan_steps(Interval(one, other), dynamics)  # also where they cross, as noise makes them
    for t in range(4):
        u_low, u_high = v_low + one[t], v_high + other[t]
        s_low, s_high = u_low >= dynamics.threshold, u_high >= dynamics.threshold
        for found, u, s in zip(zip(*scanned, strict=True), (u_low, u_high), (s_low, s_high), strict=True):
            assert torch.equal(found[0][t], u)
            assert torch.equal(found[1][t], s.float())
        v_low, v_high = select(u_low, dynamics), select(u_high, dynamics)
        least = torch.minimum(v_low, carry_above(dynamics.threshold, dynamics))
        most = torch.maximum(v_high, carry_below(dynamics.threshold, dynamics))
        v_low, v_high = torch.where(s_low != s_high, least, v_low), torch.where(s_low != s_high, most, v_high)


def test_a_step_scan_within_nothing_known_is_the_step_scan() -> None:
    generator = generator_of(0)
    dynamics = dynamics_of((), False, Triangle(2.0), generator)
    low = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    high = (low + 0.4).detach().requires_grad_()
    unknown = Interval(torch.full_like(low, -torch.inf), torch.full_like(low, torch.inf))
    one, other = (scan_steps(Interval(low, high), dynamics, within) for within in (None, unknown))
    assert_same_gradients(
        [*one.membranes, *one.spikes], [*other.membranes, *other.spikes], (low, high, *dynamics.numbers()), 0
    )


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_held_currents_are_those_that_repeat(lossless: bool, shape: tuple[int, ...]) -> None:
    generator = generator_of(1)
    dynamics = dynamics_of(shape, lossless, Triangle(2.0), generator)
    current = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64).add(0.4).requires_grad_()
    held = scan(current, dynamics, 5)
    repeated = scan(current.expand(5, 4, 3).contiguous(), dynamics)
    assert torch.equal(held.spikes, repeated.spikes)
    assert_same_gradients([*held], [*repeated], (current, *dynamics.numbers()), 1)
    assert_same_gradients([held.spikes], [repeated.spikes], (current,), 1)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_the_counts_of_a_ramp_are_those_of_its_sums(surrogate: Surrogate, shape: tuple[int, ...]) -> None:
    generator = generator_of(2)
    dynamics = dynamics_of(shape, True, surrogate, generator)
    low = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    high = (low + 0.3).detach().requires_grad_()
    ramp = HeldCurrent(Interval(low, high), 6)
    times = torch.arange(1, 7, dtype=torch.float64)[:, None, None]
    for found, current in zip(ramp.sums, (low, high), strict=True):
        assert torch.equal(found, times * current)
    one, other = (scan_counts(charge, dynamics, 0.0) for charge in (ramp, Summed(ramp.sums)))
    assert all(map(torch.equal, one.counts, other.counts))
    inputs = (low, high, dynamics.threshold, dynamics.initial, dynamics.offset)
    assert_same_gradients([*one.counts], [*other.counts], inputs, 2)
    rounded = [scan_counts(charge, dynamics, FLOAT32_UNIT) for charge in (ramp, Summed(ramp.sums))]
    assert all(map(torch.equal, rounded[0].counts, rounded[1].counts))
    assert rounded[0].error is not None
    assert rounded[1].error is not None
    assert torch.equal(rounded[0].error, rounded[1].error)


DENSE = Dense(torch.randn(4, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64))
CONVOLUTION = Convolution(
    torch.randn(4, 2, 3, 3, dtype=torch.float64),
    torch.randn(4, dtype=torch.float64),
    (2, 1),
    (1, 0),
    (1, 1),
    1,
)


@pytest.mark.parametrize(("operator", "shape"), [(DENSE, (6,)), (CONVOLUTION, (2, 5, 4))], ids=("fc", "conv"))
def test_gradients_of_interval_products(operator: Dense | Convolution, shape: tuple[int, ...]) -> None:
    generator = generator_of(3)
    low = torch.randn(3, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    high = (low + torch.rand(low.shape, generator=generator)).detach().requires_grad_()

    def bounds(low: Tensor, high: Tensor) -> Interval:
        return PLAIN.chain([operator], Interval(low, high), torch.tensor([1, 2, 3]))

    assert torch.autograd.gradcheck(bounds, (low, high))
    only_upper = torch.autograd.grad(bounds(low, high).upper.sum(), (low, high))
    exact = float(operator.linear(torch.ones_like(low)).sum())
    total = sum(float(gradient.sum()) for gradient in only_upper)
    assert total == pytest.approx(exact)


@pytest.mark.parametrize("batch", [2, 3, 40])
def test_margins_are_merged_the_same_way_for_few_and_many_samples(batch: int) -> None:
    generator = generator_of(4)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    low = torch.rand(batch, 5, generator=generator, dtype=torch.float64)
    high = (low + torch.rand(batch, 5, generator=generator)).requires_grad_()
    low.requires_grad_()
    y = torch.arange(batch) % 3
    found = margins([Dense(weight, None)], Interval(low, high), y, PLAIN)
    difference = weight[y][:, None] - weight[others(y, 3)]
    least = torch.where(difference > 0, low[:, None], high[:, None])
    expected = (difference * least).sum(-1)
    assert_same_gradients([found], [expected], (weight, low, high), 4)


def spoilt(values: Sequence[float]) -> Callable[[], Tensor]:
    network = SpikingNetwork([nn.Linear(4, 3), IF(), nn.Linear(3, 2)], 2, "membrane")
    return lambda: network(torch.tensor([[0.5, *values, 0.5]]))


@pytest.mark.parametrize("values", [(torch.nan, 0.0), (torch.inf, 0.0), (torch.inf, -torch.inf)], ids=str)
def test_inputs_that_are_not_finite_are_found(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        spoilt(values)()


def test_finite_inputs_whose_sum_overflows_are_taken() -> None:
    spoilt((3e38, 3e38))()


def test_freed_memory_is_kept_where_the_c_library_knows_how() -> None:
    kept = keep_freed_memory()
    assert isinstance(kept, bool)
    assert sys.platform.startswith("linux") or not kept
    assert keep_freed_memory() is kept
