"""Rounding: bounds hold for the float32 network in any order of its sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Literal

import pytest
import torch
from orders import (
    NEURONS,
    ORDERS,
    STEPS,
    grid,
    inside,
    network_on_the_grid,
    run_one_by_one,
    spikes_for,
    sums_one_by_one,
)
from torch import Tensor, nn

from certsnn.affine import Affine, Dense, per_channel
from certsnn.bounds import Interval, LayerBounds, certify, layer_bounds, margin_bounds
from certsnn.bounds.interval.arithmetic import FLOAT32_UNIT, RIGOROUS
from certsnn.bounds.interval.flips import FlippedSpikes
from certsnn.bounds.interval.layers import Spikes
from certsnn.bounds.interval.scans import Summed, membranes_of_counts, scan_counts
from certsnn.bounds.interval.topk import Ranking, any_weights, feasible_flips
from certsnn.bounds.linear.backward import membrane_error
from certsnn.inputsets import LinfBall, SpikeBox, SpikeFlips
from certsnn.layers import Normalize, as_affine
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Reset, Trace, scan


def shuffled(network: SpikingNetwork, generator: torch.Generator) -> tuple[SpikingNetwork, Tensor]:
    """The same network with each layer's inputs in another order, and the order of its inputs.

    All outputs keep their places: only hidden neurons move, with the columns that read them.
    """
    layers: list[nn.Module] = []
    linears = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    orders = [torch.randperm(layer.in_features, generator=generator) for layer in linears]
    orders.append(torch.arange(linears[-1].out_features))
    number = 0
    for layer in network.layers:
        if isinstance(layer, nn.Linear):
            other = nn.Linear(layer.in_features, layer.out_features)
            other.weight.data = layer.weight.data[orders[number + 1]][:, orders[number]].contiguous()
            other.bias.data = layer.bias.data[orders[number + 1]]
            layers.append(other)
            number += 1
        else:
            layers.append(layer)
    return SpikingNetwork(layers, STEPS, network.readout, "spikes").eval(), orders[0]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("readout", ["rate", "membrane"])
@torch.no_grad()
def test_every_order_of_the_sums_stays_within_the_rigorous_bounds(
    name: str, threshold: float, readout: Literal["rate", "membrane"]
) -> None:
    for seed in range(2):
        network = network_on_the_grid(NEURONS[name], threshold, seed, readout)
        x = spikes_for(network, seed)
        bounds = layer_bounds(network, x, SpikeFlips(0), rounding=True)
        y = network(x).argmax(1)
        claimed = margin_bounds(network, x, y, SpikeFlips(0), rounding=True)
        rivals = torch.tensor([[j for j in range(3) if j != label] for label in y.tolist()])

        def honoured(
            logits: Tensor, claimed: Tensor = claimed, y: Tensor = y, rivals: Tensor = rivals
        ) -> bool:
            logits = logits.double()
            margin = logits.gather(1, y[:, None]) - logits.gather(1, rivals)
            return bool((margin >= claimed).all())

        for order in ORDERS:
            traces, logits = run_one_by_one(network, x, order)
            assert inside(bounds, traces), order
            assert honoured(logits), order
        generator = torch.Generator().manual_seed(seed)
        for _ in range(4):
            other, inputs = shuffled(network, generator)
            assert honoured(other(x[..., inputs]))
        for size in (1, 5):
            rows = [network(x[:, i : i + size]) for i in range(0, x.shape[1], size)]
            assert honoured(torch.cat(rows))
        with threads(2):
            assert honoured(network(x.repeat(1, 50, 1))[-x.shape[1] :])
            assert inside(bounds, network.freeze().traces(x))


@pytest.mark.parametrize("reset", ["subtract", (1.0, 0.03), (1.0, -5.0)], ids=str)
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("spread", ["grid", "normal"])
@torch.no_grad()
def test_the_count_domain_covers_the_additions_of_the_neuron(
    reset: Reset, threshold: float, spread: str
) -> None:
    """Known currents, so that nothing but the neuron's own additions is rounded."""
    generator = torch.Generator().manual_seed(0)
    shape = (64, 1, 3000)
    currents = grid(shape, threshold, generator)
    if spread == "normal":
        currents = 10 * torch.randn(shape, generator=generator)
    dynamics = IF(threshold, reset, initial=threshold / 10).dynamics()
    executed = scan(currents, dynamics)
    exact = currents.double().cumsum(0)
    cumulative = Interval(exact, exact)
    bounds = scan_counts(Summed(cumulative), dynamics, FLOAT32_UNIT)
    counts = executed.spikes.cumsum(0)
    assert (bounds.counts.lower <= counts).all()
    assert (counts <= bounds.counts.upper).all()
    # Where the count is settled, the membrane differs from the exact one by its rounding alone.
    low, high = membranes_of_counts(cumulative, bounds, dynamics)
    assert (low <= executed.membranes.double()).all()
    assert (executed.membranes.double() <= high).all()


def a_priori(operators: list[Affine], x: Tensor) -> tuple[Tensor, Tensor]:
    """The exact outputs for float64 inputs ``[N, ...]``, and how far float32 ones may be off.

    A product passes at most n roundings, and one more with the bias: (n+1) units of each term.
    """
    error = torch.zeros_like(x)
    for operator in (operator.to(torch.float64) for operator in operators):
        y = operator.apply(x)
        if operator.terms(x.shape[1:]):
            k = (operator.terms(x.shape[1:]) + 1) * FLOAT32_UNIT
            size = operator.magnitude(x.abs() + error)
            size = size if operator.bias is None else size + per_channel(operator.bias.abs(), size)
            error = operator.magnitude(error) + k / (1 - k) * size
        else:
            error = operator.magnitude(error)
        x = y
    return x, error


def narrow() -> list[nn.Module]:
    """Positive weights and one neuron in between: bounds of the chain are reached by one member."""
    first, second = nn.Linear(6, 1), nn.Linear(1, 2, bias=False)
    first.weight.abs_()
    return [nn.Flatten(), first, second]


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "linear": lambda: [nn.Flatten(), nn.Linear(6, 3)],
    "two linear": lambda: [nn.Flatten(), nn.Linear(6, 3), nn.Linear(3, 3, bias=False)],
    "narrow": narrow,
    "conv": lambda: [nn.Conv2d(1, 2, 2, padding=1)],
    "conv and linear": lambda: [nn.Conv2d(1, 2, 2, bias=False), nn.Flatten(), nn.Linear(4, 2)],
    "pool": lambda: [nn.AvgPool2d(2, stride=1)],
    "pool, conv and pool": lambda: [
        nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(1, 2, 2),
        nn.AvgPool2d(2, 1),
    ],
    "normalize and linear": lambda: [Normalize([0.5], [0.1]), nn.Flatten(), nn.Linear(6, 2)],
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bias", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("ranking", [feasible_flips, any_weights], ids=["feasible", "any"])
@torch.no_grad()
def test_currents_are_widened_by_all_that_any_order_can_lose(
    name: str, rate: float, bias: float, ranking: Ranking
) -> None:
    """Every member's a-priori error, not only those that happen to occur, fits into the bounds."""
    torch.manual_seed(0)
    layers = CHAINS[name]()
    for layer in layers:
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None:
            layer.bias *= bias
    operators = [as_affine(layer) for layer in layers]
    steps = 3
    x0 = (torch.rand(steps, 2, 1, 2, 3) < rate).float()
    box = SpikeBox(x0, torch.ones_like(x0).where(torch.rand_like(x0) < 0.2, x0))
    flips = SpikeFlips(2)
    for input_set, source in (
        (flips, FlippedSpikes(x0, flips, ranking)),
        (box, Spikes(Interval(box.lower, box.upper))),
    ):
        members = torch.stack(list(islice(input_set.enumerate(x0), 200))).double()
        y, error = a_priori(operators, members.flatten(0, 2))
        y, error = (values.unflatten(0, members.shape[:3]) for values in (y, error))
        for (low, high), value, lost in (
            (source.currents(operators, RIGOROUS), y, error),
            (source.charge(operators, RIGOROUS).sums, y.cumsum(1), error.cumsum(1)),
        ):
            assert (low <= value - lost).all()
            assert (value + lost <= high).all()


@pytest.mark.parametrize("name", NEURONS)
@torch.no_grad()
def test_without_the_rounding_terms_a_bound_is_wrong(name: str) -> None:
    """Networks for which rounding=False claims what another order of the same sums violates."""
    violated = 0
    for seed in range(8):
        network = network_on_the_grid(NEURONS[name], 0.3, seed)
        x = spikes_for(network, seed)
        plain = layer_bounds(network, x, SpikeFlips(0), rounding=False)
        rigorous = layer_bounds(network, x, SpikeFlips(0), rounding=True)
        for order in ORDERS:
            traces, _ = run_one_by_one(network, x, order)
            spikes = [LayerBounds(b.spikes, b.spikes) for b in plain]
            violated += not inside(spikes, [Trace(t.spikes, t.spikes) for t in traces])
            assert inside(rigorous, traces)
    assert violated > 0


@torch.no_grad()
def test_long_sums_of_images_stay_within_the_rigorous_bounds() -> None:
    """Large opposite terms, which lose the most: 8-bit pixels, weights of both signs, eps 0."""
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        linear = nn.Linear(300, 4)
        linear.weight.data = 1000 * torch.randn(4, 300, generator=generator)
        network = SpikingNetwork([linear, IF(0.3)], STEPS).eval()
        x = torch.randint(0, 256, (3, 300), generator=generator) / 255
        (bounds,) = layer_bounds(network, x, LinfBall(0.0), rounding=True)
        (stage,) = network.freeze().stages
        (dense,) = stage.link.operators
        assert isinstance(dense, Dense)
        for order in ORDERS:
            currents = sums_one_by_one(dense, x, order)
            trace = scan(currents.expand(STEPS, *currents.shape), stage.neuron)
            assert inside([bounds], [trace]), order


@torch.no_grad()
def test_sums_that_overflow_in_some_order_are_never_certified() -> None:
    """The exact sum is positive, and float32 reaches -inf on the way."""
    half = 2048
    linear = nn.Linear(2 * half, 2, bias=False)
    gain, loss = torch.full((half,), 2.5e37), torch.full((half,), -2e37)
    linear.weight.data = torch.stack([torch.cat([loss, gain]), -torch.ones(2 * half)])
    x = torch.ones(2, 1, 2 * half)
    for neuron in (LIF(1.0), IF(1.0)):
        network = SpikingNetwork([linear, neuron], 2, "rate", "spikes").eval()
        assert network(x).tolist() == [[0.0, 0.0]]
        with pytest.raises(ValueError, match="overflow"):
            certify(network, x, torch.tensor([0]), SpikeFlips(0))


def test_membranes_that_overflow_are_never_certified() -> None:
    """No single sum overflows, but a membrane that grows over the steps does."""
    linear = nn.Linear(1, 2, bias=False)
    linear.weight.data = torch.tensor([[1e37], [-1e37]])
    network = SpikingNetwork([linear, IF(1.0)], 20, "rate").eval()
    with pytest.raises(ValueError, match="overflow"):
        certify(network, torch.ones(1, 1), torch.tensor([0]), LinfBall(0.1))


@torch.no_grad()
@pytest.mark.parametrize("neuron", [LIF(1.0, 0.9), LIF(1.0, 0.7, (0.6, 0.3)), IF(1.0)], ids=str)
def test_the_error_of_a_membrane_covers_additions_and_resets(neuron: Neuron) -> None:
    """Currents are tiny beside the potential, so that the rounding of products is the least of it."""
    generator = torch.Generator().manual_seed(0)
    inputs, steps = 500, 6
    linear = nn.Linear(inputs, inputs, bias=False)
    linear.weight.data = torch.diag(1e-4 * torch.rand(inputs, generator=generator))
    neuron.initial.fill_(0.9)
    network = SpikingNetwork([linear, neuron, nn.Linear(inputs, 2)], steps, "membrane", "spikes").eval()
    program = network.freeze()
    x = torch.ones(steps, 1, inputs)
    membranes = program.traces(x)[0].membranes
    stage = program.stages[0]
    executed = Interval(membranes.double(), membranes.double())
    error = membrane_error(stage.link.operators, x.double(), executed, stage.neuron, RIGOROUS)
    threshold, decay, initial, gain, offset = (value.double() for value in stage.neuron.numbers())
    before, current = executed.lower[:-1], linear.weight.double().diagonal()
    carried = torch.where(before < threshold, decay * before, gain * before + offset)
    exact = torch.cat([initial.expand(1, 1, inputs), carried]) + current
    off = (executed.lower - exact).abs()
    assert error is not None and (off <= error).all()
    products = RIGOROUS.lost(stage.link.operators, x[0].double())
    assert (off > products).any(), "the example shows nothing"
