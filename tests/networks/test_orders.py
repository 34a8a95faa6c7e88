"""The orders in which a step is executed: bit for bit that of hand-written loops, and covered by bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_spike import ReferenceSpike
from strategies import Drawn, neurons
from torch import Tensor

from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, RIGOROUS, UNDERFLOW, Interval
from certsnn.bounds.interval.scans import (
    Summed,
    membranes_of_counts,
    scan_counts,
    scan_steps,
)
from certsnn.bounds.linear.backward import membrane_error
from certsnn.bounds.linear.constant_current import pieces
from certsnn.dynamics import CURRENT_FIRST, ORDERS, Dynamics, carry_above, carry_below
from certsnn.kernels.rounding import accumulated_rounding
from certsnn.neurons import IF, LIF, Number
from certsnn.scan import scan
from certsnn.surrogates import Triangle

STEPS = 16
seeds = st.integers(0, 2**32 - 1)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tenths(seed: int, *shape: int) -> Tensor:
    """Multiples of a tenth, which no float is, of all sizes: sums of them meet thresholds, or nearly."""
    generator = generator_of(seed)
    size = torch.tensor([1.0, 1.0, 1.0, 64.0, 1e4])[torch.randint(5, shape, generator=generator)]
    return torch.randint(-10, 16, shape, generator=generator) * 0.1 * size


def snntorch(currents: Tensor, beta: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """snntorch.Leaky with reset by subtraction, as it executes a step."""
    mem, rows = torch.zeros(currents.shape[1:]), []
    for current in currents:
        reset = ((mem - threshold) > 0).float()
        mem = (beta * mem + current) - reset * threshold
        rows.append((mem, ((mem - threshold) > 0).float()))
    return torch.stack([u for u, _ in rows]), torch.stack([s for _, s in rows])


@settings(max_examples=100)
@given(seeds, st.booleans(), st.sampled_from([0.3, 0.5, 1.0]))
def test_snntorch_is_executed_bit_for_bit(seed: int, several: bool, threshold: float) -> None:
    generator = generator_of(seed)
    beta = torch.rand((3,) if several else (), generator=generator)
    at = torch.tensor(threshold) * (torch.tensor([1.0, 2.0, 1.5]) if several else 1)
    currents = tenths(seed, STEPS, 4, 3)
    above = torch.nextafter(at, torch.tensor(math.inf))  # it fires on a strict >
    neuron = LIF(above, beta, (beta, -at), order="current-first")
    trace, (membranes, spikes) = scan(currents, neuron.dynamics()), snntorch(currents, beta, at)
    assert torch.equal(trace.membranes, membranes)
    assert torch.equal(trace.spikes, spikes)


def test_the_orders_differ_in_their_last_bits_alone() -> None:
    currents = tenths(0, STEPS, 40, 3).clamp(-2, 2)
    reset: Any = (0.9, -0.3)
    one, other = (
        scan(currents, LIF(0.3, 0.9, reset).dynamics()),
        scan(currents, LIF(0.3, 0.9, reset, order="current-first").dynamics()),
    )
    assert not torch.equal(one.membranes, other.membranes)
    alike = (one.spikes == other.spikes).all(0).all(-1)  # a tie that rounding decides has consequences
    assert alike.float().mean() > 0.5
    torch.testing.assert_close(one.membranes[:, alike], other.membranes[:, alike])


@pytest.mark.parametrize("order", ORDERS)
def test_subtraction_by_hand(order: Any) -> None:
    """After the spike at 1.5 a half of 1.5 less the threshold 1 is carried on, or a half of that less 1."""
    trace = scan(torch.tensor([1.5, 0.5])[:, None, None], LIF(1.0, 0.5, "subtract", order=order).dynamics())
    assert trace.membranes.flatten().tolist() == [1.5, 0.25 if order == "current-first" else 0.75]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Dynamics, Tensor, Tensor, int]:
    """Neurons, currents ``[T, 1, n]`` and the width of an interval around them."""
    seed = draw(seeds)
    numbers = Drawn("grid", draw(st.sampled_from([0.3, 1.0])), seed)
    neuron = draw(neurons(numbers, (6,)))
    # Some silent membranes carry on about what one at the threshold does that fires: rounding orders them.
    dynamics = neuron.dynamics()
    currents = tenths(seed, STEPS, 1, 6)
    tie = carry_above(dynamics.threshold, dynamics) / dynamics.decay.clamp_min(0.1)
    currents[0] = torch.where(
        torch.rand(6, generator=numbers.generator) < 0.5, tie - dynamics.initial, currents[0]
    )
    width = torch.tensor(draw(st.sampled_from([0.0, 0.1, 1.0]))) * numbers.uniform(STEPS, 1, 6)
    return dynamics, currents.detach(), width, seed


def members(low: Tensor, high: Tensor, dynamics: Dynamics, seed: int) -> Tensor:
    """Currents ``[T, M, n]`` between bounds ``[T, 1, n]``: ends, random ones, some that meet thresholds."""
    generator = generator_of(seed)
    shape = (len(low), 48, low.shape[2])
    mix = torch.rand(shape, generator=generator)
    mix = torch.where(torch.rand(shape, generator=generator) < 0.4, mix.round(), mix)
    currents = torch.maximum(torch.minimum(low + mix * (high - low), high), low)
    for t in range(len(low)):  # a third of them towards the threshold, from where the steps before lead
        u = scan(currents[: t + 1], dynamics).membranes[t]
        near = (currents[t] + (dynamics.threshold - u)).clamp(low[t], high[t])
        meets = torch.rand(u.shape, generator=generator) < 0.3
        currents[t] = torch.where(meets, near, currents[t])
    return currents


@torch.no_grad()
@settings(max_examples=150)
@given(layers())
def test_executed_traces_lie_within_the_intervals_bit_for_bit(
    drawn: tuple[Dynamics, Tensor, Tensor, int],
) -> None:
    dynamics, currents, width, seed = drawn
    box = Interval(currents - width, currents + width)
    xs = members(*box, dynamics, seed)
    trace = scan(xs, dynamics)
    bounds = [scan_steps(box, dynamics)]
    if dynamics.lossless:
        sums = Interval(*(end.double().cumsum(0) for end in box))
        counts = scan_counts(Summed(sums), dynamics, FLOAT32_UNIT)
        known = membranes_of_counts(sums, counts, dynamics)
        assert ((known.lower <= trace.membranes) & (trace.membranes <= known.upper)).all()
        number = trace.spikes.cumsum(0)
        assert ((counts.counts.lower <= number) & (number <= counts.counts.upper)).all()
        bounds.append(scan_steps(box, dynamics, Interval(*(end.float() for end in known))))
    for (low, high), (least, most) in bounds:
        assert ((low <= trace.membranes) & (trace.membranes <= high)).all()
        assert ((least <= trace.spikes) & (trace.spikes <= most)).all()


@torch.no_grad()
@settings(max_examples=150)
@given(layers())
def test_the_intervals_of_the_next_step_are_the_least_ones(
    drawn: tuple[Dynamics, Tensor, Tensor, int],
) -> None:
    dynamics, currents, width, _ = drawn
    shape = currents.shape[1:]
    box = Interval(currents - width, currents + width)
    membranes = scan_steps(box, dynamics).membranes
    for t in range(STEPS - 1):
        low, high = membranes.lower[t], membranes.upper[t]
        at = dynamics.threshold.expand(shape)
        fired, silent = torch.ones(shape), torch.zeros(shape)
        inside = (low <= at) & (
            at <= high
        )  # the threshold itself, as one that fires and as the last silent one
        found = []
        for u in (low, high):
            found.append([dynamics.order.advance(u, (u >= at).float(), end[t + 1], dynamics) for end in box])
        for s in (fired, silent):
            both = zip(
                found[0], (dynamics.order.advance(at, s, end[t + 1], dynamics) for end in box), strict=True
            )
            met = inside & (low < at)
            found.append([torch.where(met, other, one) for one, other in both])
        least, most = (torch.stack([pair[k] for pair in found]) for k in (0, 1))
        assert torch.equal(membranes.lower[t + 1], least.amin(0))
        assert torch.equal(membranes.upper[t + 1], most.amax(0))


@torch.no_grad()
@settings(max_examples=150)
@given(layers())
def test_rounding_terms_cover_what_a_step_loses(drawn: tuple[Dynamics, Tensor, Tensor, int]) -> None:
    dynamics, currents, _, _ = drawn
    u, s = scan(currents, dynamics)
    exact = dynamics.mapped(torch.Tensor.double)
    carried = torch.where(s.bool(), carry_above(u.double(), exact), carry_below(u.double(), exact))
    before = torch.cat([exact.initial.expand(u[:1].shape), carried[:-1]])
    lost = (u.double() - (before + currents.double())).abs()
    error = membrane_error([], torch.zeros_like(u), Interval(u, u), dynamics, RIGOROUS)
    assert error is not None
    assert (lost <= error).all()
    if dynamics.lossless:
        charge = exact.initial + currents.double().cumsum(0)
        spikes = torch.cat([torch.zeros_like(s[:1]), s[:-1]]).double().cumsum(0)
        total = (u.double() - (charge + exact.offset * spikes)).abs()
        assert (total <= accumulated_rounding(charge.abs(), exact.offset, FLOAT32_UNIT, UNDERFLOW)).all()


@torch.no_grad()
@settings(max_examples=60)
@given(st.sampled_from(sorted(ORDERS)), st.sampled_from([IF, LIF]), seeds)
def test_trains_of_a_constant_current_are_found(order: Any, make: Any, seed: int) -> None:
    neuron = make(0.3, reset="subtract", initial=0.1, order=order)
    dynamics = neuron.dynamics()
    found = pieces(-0.5, 2.0, STEPS // 2, dynamics, FLOAT32_UNIT)
    assert found is not None
    edges = torch.cat([found.lower, found.upper]).float()
    ulps = torch.randint(-3, 4, (8, len(edges)), generator=generator_of(seed))
    currents = torch.cat([(edges * (1 + ulps * 2.0**-23)).flatten(), tenths(seed, 40).clamp(-0.5, 2)]).clamp(
        -0.5, 2
    )
    spikes = scan(currents.expand(STEPS // 2, 1, -1), dynamics).spikes[:, 0]
    for current, train in zip(currents, spikes.T, strict=True):
        held = (found.lower <= current) & (current <= found.upper)
        assert (found.spikes[held] == train).all(1).any()


def loop(currents: Tensor, dynamics: Dynamics) -> list[Tensor]:
    """Membranes and spikes, a step at a time under autograd."""
    u, rows = dynamics.initial + currents[0], []
    for t in range(len(currents)):
        s = ReferenceSpike.apply(u - dynamics.threshold, dynamics.surrogate)
        rows.append((u, s))
        if t < len(currents) - 1:
            kept = (1 - s) * dynamics.decay + s * dynamics.gain
            u = (kept * u + currents[t + 1]) + dynamics.offset * s
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def intervals(x: Tensor, wide: Tensor, dynamics: Dynamics) -> list[Tensor]:
    """Lower and upper membranes and spikes for currents in ``[x, wide]``, as `loop` makes them."""
    threshold, decay, initial, gain, offset = dynamics.numbers()
    u, rows = [initial + x[0], initial + wide[0]], []
    for t in range(len(x)):
        s = [ReferenceSpike.apply(end - threshold, dynamics.surrogate) for end in u]
        rows.append((*u, *s))
        if t < len(x) - 1:
            low, high = (
                (((1 - one) * decay + one * gain) * end + current) + offset * one
                for end, one, current in zip(u, s, (x[t + 1], wide[t + 1]), strict=True)
            )
            least, most = (gain * threshold + x[t + 1]) + offset, decay * threshold + wide[t + 1]
            unstable = s[0] != s[1]
            u = [
                torch.where(unstable, torch.minimum(low, least), low),
                torch.where(unstable, torch.maximum(high, most), high),
            ]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_gradients_are_those_of_the_unrolled_loop(lossless: bool, shape: tuple[int, ...]) -> None:
    generator = generator_of(0)

    def number(value: float) -> Tensor:
        noise = 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64)
        return (value + noise).requires_grad_()

    threshold, decay, initial, gain, offset = map(number, (0.8, 0.7, 0.2, 0.5, -0.3))
    if lossless:
        decay, gain = (torch.ones(shape, dtype=torch.float64).requires_grad_() for _ in range(2))
    dynamics = Dynamics(threshold, decay, initial, gain, offset, lossless, Triangle(2.0), CURRENT_FIRST)
    x = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64).add(0.4).requires_grad_()
    wide = (x + torch.rand(x.shape, generator=generator)).detach().requires_grad_()

    unknown = Interval(torch.full_like(x, -math.inf), torch.full_like(x, math.inf))
    plain, within = (scan_steps(Interval(x, wide), dynamics, known) for known in (None, unknown))
    numbers = dynamics.numbers()
    cases = [
        ([*scan(x, dynamics)], loop(x, dynamics), (x, *numbers)),
        ([*plain.membranes, *plain.spikes], intervals(x, wide, dynamics), (x, wide, *numbers)),
        ([*within.membranes, *within.spikes], intervals(x, wide, dynamics), (x, wide, *numbers)),
    ]
    for found, expected, inputs in cases:
        weights = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in expected]
        gradients = []
        for outputs in (found, expected):
            torch.testing.assert_close(outputs, expected)
            form = torch.stack([(y * w).sum() for y, w in zip(outputs, weights, strict=True)]).sum()
            gradients.append(torch.autograd.grad(form, inputs, retain_graph=True))
        for mine, theirs in zip(*gradients, strict=True):
            assert theirs.abs().sum() > 0
            torch.testing.assert_close(mine, theirs)


@settings(max_examples=40)
@given(seeds, st.sampled_from(sorted(ORDERS)), st.sampled_from([0.3, torch.tensor([0.3, 0.6, 1.0])]))
def test_a_reset_to_zero_in_the_same_step_gives_the_same_spikes(
    seed: int, order: Any, threshold: Number
) -> None:
    """snnTorch's reset_delay=False: the membrane is 0 from the spike on, and read as that."""
    currents, beta = tenths(seed, STEPS, 4, 3), torch.tensor(0.9)
    mem, spikes, before = torch.zeros(4, 3), [], []
    for current in currents:
        mem = beta * mem + current
        spikes.append((mem >= torch.as_tensor(threshold)).float())
        before.append(mem)
        mem = mem - spikes[-1] * mem
    trace = scan(currents, LIF(threshold, 0.9, "zero", order=order).dynamics())
    assert torch.equal(trace.spikes, torch.stack(spikes))
    assert torch.equal(trace.membranes, torch.stack(before))


def test_orders_in_words() -> None:
    assert "order='current-first'" in repr(IF(order="current-first"))
    assert "order" not in repr(LIF())
    with pytest.raises(
        ValueError, match=r"order must be .*'current-first', got 'same-step'.*reset_delay=False"
    ):
        LIF(reset="subtract", order="same-step")  # type: ignore[arg-type]
