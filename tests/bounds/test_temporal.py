"""Bounds of filters, recurrent layers and readouts: enumeration, exactness, rounding, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from soundness import true_margins
from temporal import backward, spike_trains
from torch import Tensor, nn

from certsnn.bounds import certify, layer_bounds, margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.filters import Filtered
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Interval
from certsnn.bounds.interval.joints import Part
from certsnn.bounds.interval.layers import Spikes
from certsnn.bounds.interval.propagate import propagate
from certsnn.bounds.interval.topk import feasible_flips
from certsnn.bounds.linear.levels import Known, level_of
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.recurrence import FiringBack
from certsnn.filters import Synapse
from certsnn.filters import filtered as filter_of
from certsnn.graph import Branches, Residual
from certsnn.inputsets import FreeSpikes, LinfBall, LinfFrames, SpikeFlips
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.readouts import READOUTS, ReadoutName
from certsnn.recurrence import Recurrent

Linear = Callable[[int, int], nn.Linear]
OTHERS: list[ReadoutName] = ["membrane", "sum", "last", "maximum"]


def dyadic(seed: int) -> Linear:
    """Linear layers whose numbers have few bits."""
    generator = torch.Generator().manual_seed(seed)

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        for parameter in layer.parameters():
            parameter.data = torch.randint(-4, 5, parameter.shape, generator=generator) / 8
        return layer

    return linear


def filtered(linear: Linear) -> list[nn.Module]:
    return [linear(2, 2), Synapse(torch.tensor([0.5, 1.0])), IF(0.5), linear(2, 2), Synapse(0.5), LIF(0.25)]


def fed_back(linear: Linear) -> list[nn.Module]:
    return [
        linear(2, 2),
        Recurrent(LIF(0.25, 0.5, initial=-0.25), linear(2, 2)),
        linear(2, 2),
        Recurrent(IF(0.5, initial=0.25), linear(2, 2)),
    ]


def wired(linear: Linear) -> list[nn.Module]:
    body = [linear(2, 2), Synapse(0.5), Recurrent(LIF(0.25, 0.5, "subtract"), linear(2, 2))]
    return [
        linear(2, 2),
        LIF(0.25),
        Residual(body),
        Branches([linear(2, 2), IF(0.5)], []),
        linear(4, 2),
        LIF(0.5),
    ]


HIDDEN = {"filters": filtered, "feedback": fed_back, "wired": wired}


def network_of(
    hidden: str, readout: ReadoutName, seed: int, kind: str = "spikes", steps: int = 3
) -> SpikingNetwork:
    linear = dyadic(seed)
    layers = HIDDEN[hidden](linear)
    if readout != "rate":
        layers += [linear(2, 3)] if seed % 2 else [linear(2, 3), Synapse(0.5)]
    return SpikingNetwork(layers, steps, readout, kind).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_layers_hold_for_every_spike_train(hidden: str, seed: int) -> None:
    """All 64 trains; numbers with few bits, so that thresholds are met exactly and nothing is rounded."""
    network = network_of(hidden, "rate", seed)
    every = spike_trains(3, 2)
    with torch.no_grad():
        traces = network.freeze().traces(every)
    x = every[:, 45:46]
    for budget in (0, 2, 6):
        near = ((every - x).abs().sum((0, 2)) <= budget).nonzero()[:, 0]
        for rounding in (False, True):
            for known, trace in zip(
                layer_bounds(network, x, SpikeFlips(budget), rounding=rounding), traces, strict=True
            ):
                for interval, values in zip(known, trace, strict=True):
                    assert (interval.lower <= values[:, near]).all()
                    assert (interval.upper >= values[:, near]).all()


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("seed", range(3))
def test_margins_hold_for_every_spike_train(hidden: str, readout: ReadoutName, seed: int) -> None:
    """All 64 trains, for S-IBP and for the backward pass alone; with nothing to choose both are exact."""
    network = network_of(hidden, readout, seed)
    every = spike_trains(3, 2)
    x = every[:, 45:46]
    with torch.no_grad():
        logits = network(every)
    y = logits[45:46].argmax(1)
    margins = true_margins(logits, y.expand(len(logits)))
    for budget in (0, 2, 6):
        least = margins[(every - x).abs().sum((0, 2)) <= budget].amin(0)
        for rounding, arithmetic in ((False, PLAIN), (True, RIGOROUS)):
            found = margin_bounds(network, x, y, SpikeFlips(budget), rounding=rounding).detach()[0]
            relaxed = backward(network, x, y, SpikeFlips(budget), arithmetic)[0]
            for claimed in (found, relaxed):
                assert (claimed <= least + (0 if rounding else 1e-5)).all()
                if budget == 0 and not rounding:
                    torch.testing.assert_close(claimed.double(), least, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("readout", OTHERS)
@pytest.mark.parametrize("kind", ["filters", "feedback"])
def test_backward_passes_are_sound_and_tighter_on_average(kind: str, readout: ReadoutName) -> None:
    torch.manual_seed(5)
    gains = []
    for _ in range(5):
        if kind == "filters":
            body = [
                nn.Linear(4, 12),
                Synapse(0.7),
                LIF(0.3, 0.5),
                nn.Linear(12, 12),
                Synapse(0.5),
                LIF(0.3, 0.5),
            ]
        else:
            body = [
                nn.Linear(4, 12),
                Recurrent(LIF(0.3, 0.5), nn.Linear(12, 12)),
                nn.Linear(12, 12),
                LIF(0.3, 0.5),
            ]
        network = SpikingNetwork([*body, nn.Linear(12, 3), Synapse(0.8)], 6, readout).eval()
        x, threat = torch.rand(20, 4), LinfBall(0.03, low=None, high=None)
        with torch.no_grad():
            y = network(x).argmax(1)
            near = torch.cat([x + 0.03 * (2 * torch.rand(20, 4) - 1).sign() for _ in range(40)])
            executed = true_margins(network(near), y.repeat(40)).unflatten(0, (40, 20)).amin(0)
            interval = margin_bounds(network, x, y, threat, rounding=True)
        relaxed = backward(network, x, y, threat, RIGOROUS)
        assert (interval <= executed).all()
        assert (relaxed <= executed).all()
        gains.append((torch.maximum(relaxed, interval) - interval) / interval.abs().mean())
    assert float(torch.stack(gains).mean()) > 0.01


def test_sums_of_a_filters_values_are_tight() -> None:
    """Against all trains: a filter of sums is the sum of the filter, so nothing is lost."""
    every = spike_trains(4, 1)
    box = Interval(torch.tensor([0.0, 0, 1, 0]).view(4, 1, 1), torch.tensor([1.0, 0, 1, 1]).view(4, 1, 1))
    inside = ((every >= box.lower) & (every <= box.upper)).all(0).all(1)
    decay = torch.tensor(0.5)
    rows = []
    for train in every[:, inside].unbind(1):
        i, values = torch.zeros(1), []
        for x in train:
            i = 0.5 * i + x
            values.append(i)
        rows.append(torch.stack(values))
    found = torch.stack(rows, 1)
    for arithmetic in (PLAIN, RIGOROUS):
        source = Filtered((Part(Spikes(box), ()),), arithmetic, torch.float32, decay)
        low, high = source.charge((), arithmetic).sums
        sums = found.cumsum(0).to(low)
        assert (low[:, 0] <= sums.amin(1)).all() and (high[:, 0] >= sums.amax(1)).all()
        torch.testing.assert_close(low[:, 0], sums.amin(1), rtol=0, atol=1e-5)
        torch.testing.assert_close(high[:, 0], sums.amax(1), rtol=0, atol=1e-5)
        assert torch.equal(source.box().lower[:, 0], found.amin(1))
        assert torch.equal(source.box().upper[:, 0], found.amax(1))


def test_executed_sums_of_a_filter_lie_within_those_of_a_single_train() -> None:
    """Nothing varies, so all that is between the ends is the rounding of 32 steps."""
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(32, 20, 30, generator=generator) - 0.3
    for decay in (torch.rand(30, generator=generator), torch.tensor(0.9), torch.tensor(1.0)):
        sums = filter_of(x, decay, 32).double().cumsum(0)
        low, high = (
            Filtered((Part(Spikes(Interval(x, x)), ()),), RIGOROUS, torch.float32, decay)
            .charge((), RIGOROUS)
            .sums
        )
        assert (low <= sums).all() and (sums <= high).all()
        assert float((high - low).max()) < 1e-2


def test_counts_pass_through_a_filter() -> None:
    """A spike that only moves in time: its filtered sum is known better than the filtered values are."""
    layers = [nn.Linear(1, 1), IF(1.0), nn.Linear(1, 1), Synapse(1.0), IF(4.0)]
    for layer, weight in ((layers[0], 0.5), (layers[2], 1.0)):
        assert isinstance(layer, nn.Linear)
        layer.weight.data.fill_(weight)
        layer.bias.data.zero_()
    network = SpikingNetwork(layers, 8).eval()
    with torch.no_grad():
        first, second = layer_bounds(network, torch.full((1, 1), 1.0), LinfBall(0.2, low=None, high=None))
    undecided = first.spikes.upper - first.spikes.lower
    assert int(undecided.sum()) >= 4
    of_steps = undecided.cumsum(0).sum(0)  # what is left of the sums of bounds of single steps
    width = second.membranes.upper[-1] - second.membranes.lower[-1]
    assert float(width) < float(of_steps)


@pytest.mark.parametrize("decay", [0.9, 0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.3, 0.1, 0.7, 0.271, 0.190000001])
def test_rounding_through_a_filter_is_covered(decay: float, threshold: float) -> None:
    """0.1 + 0.9 0.1 + ... against thresholds that it meets, over 16 steps, in both domains."""
    for neuron in (IF(threshold), LIF(threshold, 0.9, "subtract")):
        first = nn.Linear(1, 1, bias=False)
        first.weight.data.fill_(0.1)
        network = SpikingNetwork([first, Synapse(decay), neuron], 16).eval()
        x = torch.linspace(0.5, 1.5, 401)[:, None]
        with torch.no_grad():
            (trace,) = network.freeze().traces(x)
        (known,) = layer_bounds(network, x, LinfBall(0.0, low=None, high=None), rounding=True)
        for interval, values in zip(known, trace, strict=True):
            assert (interval.lower <= values).all() and (values <= interval.upper).all()


def recurrent_sums(reverse: bool) -> SpikingNetwork:
    """Sixty neurons whose feedback is summed up in one order or the other; the weights are tenths."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randint(-3, 4, (60, 60), generator=generator) * 0.1
    first = torch.randint(-9, 10, (60, 5), generator=generator) * 0.1
    order = torch.arange(59, -1, -1) if reverse else torch.arange(60)
    into, back, last = (
        nn.Linear(5, 60, bias=False),
        nn.Linear(60, 60, bias=False),
        nn.Linear(60, 3, bias=False),
    )
    into.weight.data, back.weight.data = first[order], weight[order][:, order]
    last.weight.data = torch.randint(-3, 4, (3, 60), generator=generator)[:, order] * 0.1
    return SpikingNetwork([into, Recurrent(LIF(0.3, 0.9, "subtract"), back), last], 16, "maximum").eval()


def test_rounding_of_the_feedback_is_covered_in_any_order_of_its_sums() -> None:
    """The same network with its neurons in another order rounds otherwise, and lies within the bounds."""
    network, other = recurrent_sums(False), recurrent_sums(True)
    x = torch.randint(0, 11, (200, 5), generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        (trace,), (turned,) = network.freeze().traces(x), other.freeze().traces(x)
        y = network(x).argmax(1)
        executed = [true_margins(one(x), y) for one in (network, other)]
    (known,) = layer_bounds(network, x, LinfBall(0.0, low=None, high=None), rounding=True)
    assert not torch.equal(trace.membranes, turned.membranes.flip(2))
    for interval, values, flipped in zip(known, trace, turned, strict=True):
        for found in (values, flipped.flip(2)):
            assert (interval.lower <= found).all() and (found <= interval.upper).all()
    for relaxed in (
        backward(network, x, y, LinfBall(0.0, low=None, high=None), RIGOROUS),
        margin_bounds(network, x, y, LinfBall(0.0, low=None, high=None), rounding=True).detach(),
    ):
        assert all((relaxed <= margins).all() for margins in executed)


@pytest.mark.parametrize("readout", OTHERS)
@pytest.mark.parametrize("end", ["affine", "integrator"])
def test_executed_margins_are_above_those_of_a_single_point(readout: ReadoutName, end: str) -> None:
    """With nothing for the adversary to choose, all that is between a bound and the truth is rounding."""
    torch.manual_seed(0)
    last: list[nn.Module] = [nn.Linear(24, 5)] + ([Synapse(0.9)] if end == "integrator" else [])
    body = [
        nn.Linear(4, 24),
        Synapse(0.7),
        LIF(0.3, 0.9),
        nn.Linear(24, 24),
        Recurrent(IF(0.4), nn.Linear(24, 24)),
    ]
    network = SpikingNetwork([*body, *last], 16, readout).eval()
    x = torch.rand(300, 4)
    with torch.no_grad():
        y = network(x).argmax(1)
        executed = true_margins(network(x), y)
        found = margin_bounds(network, x, y, LinfBall(0.0), rounding=True)
    relaxed = backward(network, x, y, LinfBall(0.0), RIGOROUS)
    assert float(executed.amin()) < 0.1 < float(executed.amax())
    for margins in (found, relaxed):
        assert (margins <= executed).all()
        decided = margins > executed - 1e-3  # but where rounding may decide a spike
        assert float(decided.double().mean()) > 0.5


def test_rounding_of_products_before_a_filter_is_covered() -> None:
    """Large terms that cancel: the product's rounding is far more than that of the filter's small values."""
    generator = torch.Generator().manual_seed(6)
    last = nn.Linear(80, 4, bias=False)
    large = 1000 * torch.rand(4, 40, generator=generator)
    last.weight.data = torch.cat([large, torch.rand(4, 40, generator=generator) - large], 1)
    network = SpikingNetwork([LIF(0.5, 0.0), last, Synapse(0.9)], 4, "last", "spikes").eval()
    half = (torch.rand(4, 300, 40, generator=generator) < 0.5).float()
    x = torch.cat([half, half], 2)
    with torch.no_grad():
        y = network(x).argmax(1)
        executed = true_margins(network(x), y)
    assert (backward(network, x, y, SpikeFlips(0), RIGOROUS) <= executed).all()


@pytest.mark.parametrize(("large", "radius"), [(1000.0, 0.0), (0.001, 0.0), (1000.0, 2.0)])
def test_errors_of_recurrent_membranes_cover_what_each_step_rounds(large: float, radius: float) -> None:
    """Executed membranes against exact steps from executed values; large terms of the feedback cancel."""
    generator = torch.Generator().manual_seed(7)
    first, back = nn.Linear(8, 40), nn.Linear(40, 40)
    half = large * torch.rand(40, 20, generator=generator)
    back.weight.data = torch.cat([half, torch.rand(40, 20, generator=generator) - 0.5 - half], 1)
    network = SpikingNetwork([first, Recurrent(LIF(0.3, 0.9, "subtract"), back)], 6, "rate", "frames").eval()
    x = torch.randn(6, 50, 8, generator=generator)
    input_set = LinfFrames(radius, -9, 9).bind(x, torch.arange(50))[1]
    program = network.freeze()
    with torch.no_grad():
        (trace,) = program.traces(x)
        problem = pose(program, x, torch.zeros(50, dtype=torch.long), input_set, RIGOROUS)
        sources = propagate(problem, feasible_flips)
        level = level_of(program.nodes[0], sources[1], Known(problem, sources, RELAXATIONS["joint"]))
        u, s, n = (
            trace.membranes.double(),
            trace.spikes.double(),
            program.stages[0].neuron.mapped(Tensor.double),
        )
        carried = n.decay * u * (1 - s) + (n.gain * u + n.offset) * s
        v, before = (torch.cat([torch.zeros_like(a[:1]), a[:-1]]) for a in (carried, s))
        exact = v + first.double()(x.double()) + back.double()(before)
    assert isinstance(level, FiringBack) and level.error is not None
    lost = (u - exact).abs()
    assert float(lost.max()) > 0 and (lost <= level.error).all()


def test_the_maximum_over_time_looks_at_the_best_step() -> None:
    """Class 0 has its maximum at step 1, class 1 at step 3: no step has both, and the margin is exact."""
    last = nn.Linear(2, 2, bias=False)
    last.weight.data = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    network = SpikingNetwork([LIF(0.5, 0.0), last], 3, "maximum", "spikes").eval()
    x = torch.tensor([[1.0, 0], [0, 0], [0, 1]])[:, None]
    y = torch.tensor([0])
    assert network(x).tolist() == [[2, 1]]
    for method in ("s-ibp", "s-crown-ibp"):
        assert margin_bounds(network, x, y, SpikeFlips(0), method).tolist() == [[1]]
        # Two spikes of class 1 more leave it at 1, and one of class 0 more at 2.
        assert margin_bounds(network, x, y, SpikeFlips(2, "add"), method).tolist() == [[1]]
        assert margin_bounds(network, x, y, SpikeFlips(1, "drop"), method).tolist() == [[-1]]


def test_margins_of_sums_are_merged_with_the_last_layer() -> None:
    """Both classes take the same spikes: what they have in common must not count against the margin."""
    last = nn.Linear(3, 2)
    last.weight.data, last.bias.data = torch.tensor([[1.0, 1, 1], [1, 1, 1]]), torch.tensor([0.25, 0.0])
    x = torch.zeros(4, 1, 3)
    y = torch.tensor([0])
    for readout, margin in {"sum": 1.0, "last": 0.25, "maximum": 0.25, "membrane": 0.25}.items():
        network = SpikingNetwork([LIF(0.5, 0.0), last], 4, readout, "spikes").eval()  # type: ignore[arg-type]
        found = margin_bounds(network, x, y, FreeSpikes(1.0)).detach()
        torch.testing.assert_close(found, torch.tensor([[margin]]))
        # Backward passes see it where both classes are read at the same step.
        torch.testing.assert_close(backward(network, x, y, FreeSpikes(1.0), PLAIN), found)
        assert certify(network, x, y, FreeSpikes(1.0)).certified


@pytest.mark.parametrize("readout", OTHERS)
def test_readouts_of_values_that_are_held(readout: ReadoutName) -> None:
    """What is read is an image's current, the same at each step; neurons stand beside it."""
    torch.manual_seed(0)
    nodes = {"a": (LIF(), ["input"]), "b": (nn.Linear(3, 4), ["input"])}
    network = SpikingNetwork.from_graph(nodes, 5, readout).eval()
    x = torch.rand(30, 3)
    with torch.no_grad():
        y = network(x).argmax(1)
        corners = torch.cartesian_prod(*[torch.tensor([-0.1, 0.1])] * 3)
        least = torch.stack([true_margins(network(x + corner), y) for corner in corners]).amin(0)
    threat = LinfBall(0.1, low=None, high=None)
    relaxed = backward(network, x, y, threat, PLAIN)
    torch.testing.assert_close(relaxed.double(), least, rtol=1e-4, atol=1e-5)
    assert (margin_bounds(network, x, y, threat) <= least + 1e-5).all()
