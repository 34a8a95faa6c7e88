"""S-CROWN: against a plain reference, against enumerated minima, and what must not change its bounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import METHODS, certify, layer_bounds, margin_bounds
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.linear.intermediate import Refinement
from certsnn.bounds.linear.margins import backward_margins, interval_bounds
from certsnn.bounds.linear.relaxation import RELAXATIONS, joint
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import CoupledBernoulli, InputSet, LinfBall, SpikeBox, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Dynamics, Neuron, Reset
from certsnn.surrogates import Rectangle

OURS = [name for name in METHODS if not name.startswith("auto-lirpa")]
REFINING = [name for name in OURS if name not in ("s-ibp", "s-crown-ibp", "branch-and-bound")]
RELAXED: tuple[Literal["joint"], Literal["separate"]] = ("joint", "separate")


def dense(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    linear = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    linear.weight.data = torch.tensor(weight)
    if bias is not None:
        linear.bias.data = torch.tensor(bias)
    return linear


def train(*steps: list[float]) -> Tensor:
    """One sample's spikes ``[T, 1, n]``."""
    return torch.tensor(steps)[:, None]


def problem_of(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, arithmetic: Arithmetic = PLAIN
) -> Problem:
    return pose(network.freeze(), x0, y, input_set, arithmetic)


def every_bound(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, method: str
) -> Iterator[tuple[Tensor, float]]:
    """Margin bounds ``[B, K-1]`` in all modes, each with the tolerance of its arithmetic.

    Slopes are hardly optimised: none that is tried on the way may be unsound.
    """
    assert set(RELAXED) == set(RELAXATIONS)
    for arithmetic, tolerance in ((PLAIN, 1e-5), (RIGOROUS, 0.0)):
        for relaxation in RELAXED:
            options = BoundOptions(relaxation=relaxation, iterations=1)
            problem = problem_of(network, x0, y, input_set, arithmetic)
            yield METHODS[method](problem, options).detach(), tolerance


def others(y: Tensor, classes: int) -> Tensor:
    return torch.tensor([[j for j in range(classes) if j != label] for label in y.tolist()])


@torch.no_grad()
def least_margins(network: SpikingNetwork, y: Tensor, members: list[Tensor]) -> Tensor:
    """``[B, K-1]``, the least over some members of the input set."""
    least = []
    for x in members:
        logits = network(x).double()
        least.append(logits.gather(1, y[:, None]) - logits.gather(1, others(y, logits.shape[1])))
    return torch.stack(least).amin(0)


# Random networks, and a reference that is as plain as can be.


INPUTS = 4


def random_neuron(draw: random.Random, threshold: float) -> Neuron:
    resets: list[Reset] = ["zero", "subtract", 0.4 * threshold, -0.5 * threshold, (0.0, 0.8 * threshold)]
    resets += [(0.5, -0.3 * threshold), (1.0, -1.2 * threshold), (1.3, -0.8 * threshold)]
    reset, initial = draw.choice(resets), threshold * draw.choice([0, 0, 0.5, -0.5])
    if draw.random() < 0.25:
        return IF(threshold, reset, initial=initial)
    return LIF(threshold, draw.choice([0.5, 0.5, 0.9, 0.0, 1.0]), reset, initial=initial)


def random_network(
    seed: int, kind: Literal["image", "spikes"], readout: Literal["rate", "membrane"] = "membrane"
) -> SpikingNetwork:
    """One or two hidden layers of all kinds of neurons, three classes: many spikes are undecided."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    threshold, sizes = 0.25, [INPUTS, *[8] * draw.choice([1, 2, 2]), 3]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        linear.bias.data = threshold * (torch.rand(outputs) - 0.2) / 2
        layers += [linear, random_neuron(draw, threshold)]
    layers = layers if readout == "rate" else layers[:-1]
    return SpikingNetwork(layers, draw.choice([2, 3, 4]), readout, kind).eval()


def random_images(seed: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, INPUTS, generator=torch.Generator().manual_seed(seed))


def random_spikes(network: SpikingNetwork, seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(network.steps, batch, INPUTS, generator=generator) < 0.5).float()


def random_set(seed: int, x0: Tensor) -> InputSet:
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    if draw.random() < 0.5:
        kinds: list[Literal["any", "add", "drop"]] = ["any", "add", "drop"]
        return SpikeFlips(draw.choice([1, 2]), draw.choice(kinds))
    free = (torch.rand(x0.shape, generator=generator) < 0.3).float()
    return SpikeBox(x0 * (1 - free), torch.maximum(x0, free))


def envelope_line(a: float, c: float, low: float, high: float, dynamics: Dynamics) -> tuple[float, float]:
    """Slope and intercept of the envelope's segment over the midpoint, from its three points."""
    threshold, decay, _, gain, offset = (float(value) for value in dynamics[:5])
    below, above = (lambda u: c * decay * u), (lambda u: a + c * (gain * u + offset))
    if high < threshold:
        return c * decay, 0.0
    if low >= threshold:
        return c * gain, a + c * offset
    vertex = threshold, min(below(threshold), above(threshold))
    start, end = (low, below(low)), (high, above(high))
    chord = (end[1] - start[1]) / (high - low)
    if vertex[1] < start[1] + chord * (threshold - low):
        start, end = (start, vertex) if (low + high) / 2 <= threshold else (vertex, end)
    slope = (end[1] - start[1]) / (end[0] - start[0])
    return slope, start[1] - slope * start[0]


def reference(
    network: SpikingNetwork, x0: Tensor, y: Tensor, input_set: InputSet, summed: bool = True
) -> Tensor:
    """Margins ``[B, K-1]`` of one backward pass through Linear layers, with bounds of layers from S-IBP.

    ``summed``: coefficients of a constant input are summed over the steps before the minimum.
    """
    program = network.freeze()
    layers = [layer.membranes for layer in layer_bounds(network, x0, input_set)]
    (last,) = program.readout.operators
    assert isinstance(last, Dense) and last.shift is not None
    rivals = others(y, len(last.weight))
    steps = len(layers[0].lower)
    found = torch.zeros(rivals.shape, dtype=torch.float64)
    for sample, label in enumerate(y.tolist()):
        for column, rival in enumerate(rivals[sample].tolist()):
            total = float(last.shift[label] - last.shift[rival])
            a = ((last.weight[label] - last.weight[rival]) / steps).expand(steps, -1)
            for stage, membranes in zip(reversed(program.stages), reversed(layers), strict=True):
                (operator,) = stage.link.operators
                assert isinstance(operator, Dense) and operator.shift is not None
                k = torch.zeros_like(a)
                for neuron in range(a.shape[1]):
                    c = 0.0
                    for t in reversed(range(steps)):
                        low, high = (float(end[t, sample, neuron]) for end in membranes)
                        c, intercept = envelope_line(float(a[t, neuron]), c, low, high, stage.neuron)
                        k[t, neuron] = c
                        total += intercept
                    total += c * float(stage.neuron.initial)
                total += float((k @ operator.shift).sum())
                a = k @ operator.weight
            found[sample, column] = total + least_value(a, sample, x0, input_set, summed)
    return found


def least_value(a: Tensor, sample: int, x0: Tensor, input_set: InputSet, summed: bool) -> float:
    """The least value of the form ``a [T, n]`` of one sample's input."""
    low, high = input_set.box(x0)
    if input_set.domain == "image":
        a = a.sum(0, keepdim=True) if summed else a
        return float(torch.minimum(a * low[sample], a * high[sample]).sum())
    low, high, x = low[:, sample], high[:, sample], x0[:, sample]
    if not isinstance(input_set, SpikeFlips):
        return float(torch.minimum(a * low, a * high).sum())
    changes = torch.minimum(a * low, a * high) - a * x
    return float((a * x).sum() + changes.flatten().sort().values[: input_set.budget].sum())


def raw_margins(
    network: SpikingNetwork,
    x0: Tensor,
    y: Tensor,
    input_set: InputSet,
    relaxation: str = "joint",
    arithmetic: Arithmetic = PLAIN,
) -> Tensor:
    """One backward pass, before S-IBP's margins are taken in."""
    problem = problem_of(network, x0, y, input_set, arithmetic)
    _, sources = interval_bounds(problem)
    return backward_margins(problem, sources, RELAXATIONS[relaxation])


@pytest.mark.parametrize("kind", ["image", "spikes"])
@torch.no_grad()
def test_one_backward_pass_is_that_of_the_reference(kind: Literal["image", "spikes"]) -> None:
    better = entries = 0
    for seed in range(24):
        network = random_network(seed, kind).double()
        if kind == "image":
            x0 = random_images(seed).double()
            input_set: InputSet = LinfBall(0.05)
        else:
            x0 = random_spikes(network, seed).double()
            input_set = random_set(seed, x0)
        y = network(x0).argmax(1)
        expected = reference(network, x0, y, input_set)
        torch.testing.assert_close(raw_margins(network, x0, y, input_set), expected, rtol=0, atol=1e-9)
        interval = margin_bounds(network, x0, y, input_set, "s-ibp")
        found = margin_bounds(network, x0, y, input_set, "s-crown-ibp")
        torch.testing.assert_close(found, torch.maximum(expected, interval), rtol=0, atol=1e-9)
        better += int((expected > interval + 1e-6).sum())
        entries += expected.numel()
    assert better > entries / 5, "the reference must say something that S-IBP does not"


@torch.no_grad()
def test_coefficients_of_an_image_are_summed_before_the_minimum() -> None:
    gained = []
    for seed in range(24):
        network = random_network(seed, "image").double()
        x0 = random_images(seed).double()
        y = network(x0).argmax(1)
        stepwise = reference(network, x0, y, LinfBall(0.05), summed=False)
        found = raw_margins(network, x0, y, LinfBall(0.05))
        assert (found >= stepwise - 1e-9).all()
        gained.append(found - stepwise)
    assert torch.cat(gained).amax() > 0.05


# No member goes below a bound.


@pytest.mark.parametrize("readout", ["membrane", "rate"])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_no_train_of_spikes_goes_below_a_bound(method: str, readout: Literal["rate", "membrane"]) -> None:
    for seed in range(100, 106):
        network = random_network(seed, "spikes", readout)
        x0 = random_spikes(network, seed)
        input_set = random_set(seed, x0)
        members = list(input_set.enumerate(x0))
        y = network(x0).argmax(1)
        least = least_margins(network, y, random.Random(seed).sample(members, min(150, len(members))))
        for found, tolerance in every_bound(network, x0, y, input_set, method):
            assert (found <= least + tolerance).all(), seed


def images_around(x0: Tensor, ball: LinfBall, count: int, seed: int) -> list[Tensor]:
    """Members of a ball, half of them corners."""
    generator = torch.Generator().manual_seed(seed)
    low, high = ball.box(x0)
    part = torch.rand(count, *x0.shape, generator=generator)
    part[: count // 2] = part[: count // 2].round()
    return [ball.project(x0, low + p * (high - low)) for p in part]


@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_no_image_goes_below_a_bound(method: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    for seed in range(200, 206):
        network = random_network(seed, "image")
        x0, ball = random_images(seed), LinfBall(0.08)
        y = network(x0).argmax(1)
        least = least_margins(network, y, images_around(x0, ball, 150, seed))
        for found, tolerance in every_bound(network, x0, y, ball, method):
            assert (found <= least + tolerance).all(), seed


@pytest.mark.parametrize("reset", [0.6, (0.0, 0.3), (0.5, -0.3)], ids=str)
@pytest.mark.parametrize("method", OURS)
def test_what_a_neuron_that_fires_for_sure_is_reset_to_counts_at_the_next_step(
    method: str, reset: Reset
) -> None:
    """Neuron 1 fires at step 1 and is undecided at step 2, where only the reset speaks for step 1.

    Neuron 0 rests, so that neuron 1 is the first of what matters at step 2, and not at step 1.
    """
    layers = [
        dense([[0.0, 0.0], [1.2, 0.75]]),
        LIF(1.0, 0.5, reset),
        dense([[0.0, -1.0], [0.0, 0.0]], [0.9, 0.0]),
    ]
    network = SpikingNetwork(layers, 2, "membrane", "spikes").eval()
    x0 = train([1.0, 0.0], [0.0, 0.0])
    box = SpikeBox(x0, train([1.0, 0.0], [0.0, 1.0]))
    y = torch.tensor([0])
    least = least_margins(network, y, list(box.enumerate(x0)))
    assert least < 0, "the free bit takes the win away"
    for found, tolerance in every_bound(network, x0, y, box, method):
        assert (found <= least + tolerance).all()
    assert certify(network, x0, y, box, method).status == ["unknown"]


@pytest.mark.parametrize("most", [0, 1, 1000])
@pytest.mark.parametrize("neuron", [LIF(1.0, 0.9, "subtract"), IF(1.0), LIF(1.0, 0.5, 0.6)], ids=str)
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_a_constant_current_enters_at_every_step(
    method: str, neuron: Neuron, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the first layer is relaxed: by the pieces of its current, or (there are too many) by steps."""
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    for seed in range(2):
        torch.manual_seed(seed)
        first, last = nn.Linear(2, 5), nn.Linear(5, 2)
        first.weight.data *= 4
        network = SpikingNetwork([first, neuron, last], 4, "membrane").eval()
        x, ball = torch.rand(3, 2), LinfBall(0.05)
        y = network(x).argmax(1)
        least = least_margins(network, y, images_around(x, ball, 50, seed))
        for found, tolerance in every_bound(network, x, y, ball, method):
            assert (found <= least + tolerance).all(), seed


@pytest.mark.parametrize("most", [0, 1000])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_a_neuron_that_is_undecided_at_a_late_step_only_counts_there(
    method: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neuron 1 fires at step 1 for sure, is reset to nothing, and is undecided at step 3; neuron 0 rests."""
    monkeypatch.setattr("certsnn.bounds.linear.constant_current.MOST_PIECES", most)
    readout = dense([[0.0, -1.0], [0.0, 0.0]], [0.5, 0.0])
    layers = [dense([[0.0], [1.0]]), LIF(1.0, 0.5, "zero", initial=0.8), readout]
    network = SpikingNetwork(layers, 3, "membrane").eval()
    x0, ball, y = torch.tensor([[0.6]]), LinfBall(0.2), torch.tensor([0])
    least = least_margins(network, y, images_around(x0, ball, 40, 0))
    assert least < 0, "the third spike takes the win away"
    for found, tolerance in every_bound(network, x0, y, ball, method):
        assert (found <= least + tolerance).all()
    assert certify(network, x0, y, ball, method).status == ["unknown"]


@torch.no_grad()
def test_the_rounding_of_every_layer_is_counted_in_the_cut_down_network() -> None:
    kinds: tuple[Literal["image", "spikes"], ...] = ("image", "spikes")
    for kind in kinds:
        network = random_network(3, kind)
        x0 = random_images(3) if kind == "image" else random_spikes(network, 3)
        input_set = LinfBall(0.08) if kind == "image" else random_set(3, x0)
        problem = problem_of(network, x0, network(x0).argmax(1), input_set, RIGOROUS)
        for cut in Refinement(problem, joint, BoundOptions(iterations=0)).cuts:
            assert cut.error is not None and (cut.error > 1e-8).all()
            assert cut.plain.error is cut.error


# Bounds that are exact.


def alone(neuron: Neuron, weight: list[list[float]], bias: list[float], sign: float) -> SpikingNetwork:
    """One neuron; class 0 leads by ``sign`` times its rate, and 1/4."""
    layers = [dense(weight, bias), neuron, dense([[sign], [0.0]], [0.25, 0.0])]
    return SpikingNetwork(layers, 3, "membrane", "spikes").eval()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("reset", ["zero", "subtract", 0.5], ids=str)
@pytest.mark.parametrize("initial", [0.0, 0.25])
@pytest.mark.parametrize("input_set", ["flips", "box"])
@pytest.mark.parametrize("method", OURS)
def test_one_neuron_that_is_unstable_at_one_step_is_exact(
    method: str, input_set: str, initial: float, reset: Reset, sign: float
) -> None:
    """Dyadic numbers: no rounding. The neuron may or may not fire, at one of the three steps."""
    network = alone(LIF(1.0, 0.5, reset, initial=initial), [[0.5, 0.25]], [-0.125], sign)
    x0 = train([0.0, 0.0], [1.0, 1.0], [0.0, 0.0])
    box = SpikeBox(x0, train([0.0, 1.0], [1.0, 1.0], [0.0, 0.0]))
    flips = SpikeFlips(1, "add") if input_set == "flips" else box
    for bounds in layer_bounds(network, x0, flips):
        assert int((bounds.spikes.lower != bounds.spikes.upper).sum()) <= 1
    y = torch.tensor([0])
    least = least_margins(network, y, list(flips.enumerate(x0)))
    for found, tolerance in every_bound(network, x0, y, flips, method):
        # Rounding=True may leave a tie at the threshold open: there is none here.
        torch.testing.assert_close(found.double(), least, rtol=0, atol=max(tolerance, 1e-6))


@pytest.mark.parametrize("kind", ["any", "add", "drop"])
@pytest.mark.parametrize("budget", [1, 2])
@torch.no_grad()
def test_a_flip_budget_over_time_and_space_is_exact_for_linear_membranes(
    kind: Literal["any", "add", "drop"], budget: int
) -> None:
    """A silent neuron is linear over the steps: S-CROWN's bounds are the enumerated extremes.

    S-IBP gives each step the whole budget, and leaves the last step undecided: there bounds are refined.
    """
    looser = 0
    for seed in range(40):
        torch.manual_seed(seed)
        linear = nn.Linear(3, 1).double()
        x0, flips = (torch.rand(3, 1, 3) < 0.5).double(), SpikeFlips(budget, kind)

        def network_with(threshold: float, linear: nn.Linear = linear) -> SpikingNetwork:
            layers = [linear, LIF(threshold, 0.5), nn.Linear(1, 2)]
            return SpikingNetwork(layers, 3, "membrane", "spikes").double().eval()

        (interval,) = layer_bounds(network_with(100.0), x0, flips)
        program = network_with(100.0).freeze()
        exact = torch.stack([program.traces(x)[0].membranes for x in flips.enumerate(x0)])
        threshold = float(interval.membranes.upper[-1])
        if threshold <= interval.membranes.upper[:-1].amax() + 1e-4 or threshold <= 1e-3:
            continue  # it might fire before
        network = network_with(threshold - 1e-5)
        part = problem_of(network, x0, torch.zeros(1, dtype=torch.int64), flips)
        (layer,) = Refinement(part, joint, BoundOptions(iterations=0)).layers
        torch.testing.assert_close(layer.membranes.lower[-1], exact[:, -1].amin(0))
        torch.testing.assert_close(layer.membranes.upper[-1], exact[:, -1].amax(0))
        looser += int(threshold > exact[:, -1].amax() + 0.01)
    assert looser > 2


@pytest.mark.parametrize("method", REFINING)
def test_a_joint_budget_certifies_what_the_budget_of_each_step_does_not(method: str) -> None:
    """One flip lifts the membrane to 1/2, in whichever step; one in each of two would make it fire."""
    for neuron in (LIF(0.75, 1.0), LIF(0.7, 0.9)):
        network = alone(neuron, [[0.5]], [0.0], -1.0)
        x0, y = torch.zeros(3, 1, 1), torch.tensor([0])
        assert certify(network, x0, y, SpikeFlips(1), "s-ibp").status == ["unknown"]
        assert certify(network, x0, y, SpikeFlips(1), method).status == ["certified"]
        assert certify(network, x0, y, SpikeFlips(2), method).status == ["unknown"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_optimised_slopes_are_exact_for_one_neuron_on_images(sign: float) -> None:
    """Current in [0.4, 0.6], threshold 1: 1 spike in 4 steps below 1/2, else 2. S-IBP: 0 to 3."""
    layers = [dense([[1.0]]), IF(1.0, "zero"), dense([[sign], [0.0]], [0.0, 0.0])]
    network = SpikingNetwork(layers, 4, "membrane").eval()
    x, y, ball = torch.tensor([[0.5]]), torch.tensor([0]), LinfBall(0.1)
    least = least_margins(network, y, [torch.tensor([[0.4]]), torch.tensor([[0.6]])])
    assert least == (0.25 if sign == 1 else -0.5)
    assert margin_bounds(network, x, y, ball, "s-ibp") < least - 0.1
    assert margin_bounds(network, x, y, ball, "alpha-s-crown") == pytest.approx(float(least), abs=1e-6)
    assert margin_bounds(network, x, y, ball, "s-crown") <= least


# Refined layers.


@pytest.mark.parametrize("relaxation", RELAXED)
@torch.no_grad()
def test_refined_layers_are_narrower(relaxation: Literal["joint", "separate"]) -> None:
    narrower = 0
    for seed in range(12):
        network = random_network(seed, "spikes").double()
        x0 = random_spikes(network, seed, 1).double()
        input_set = random_set(seed, x0)
        problem = problem_of(network, x0, network(x0).argmax(1), input_set)
        options = BoundOptions(relaxation=relaxation, iterations=0)
        layers = Refinement(problem, RELAXATIONS[relaxation], options).layers
        for layer, plain in zip(layers, layer_bounds(network, x0, input_set), strict=True):
            for narrow, wide in ((layer.membranes, plain.membranes), (layer.spikes, plain.spikes)):
                assert (narrow.lower >= wide.lower - 1e-9).all()
                assert (narrow.upper <= wide.upper + 1e-9).all()
            decided = layer.spikes.lower == layer.spikes.upper
            narrower += int((decided & (plain.spikes.lower != plain.spikes.upper)).sum())
    assert narrower > 5


@torch.no_grad()
def test_optimised_slopes_never_lose() -> None:
    """Neither against their start, nor by more steps, beyond what other bounds of layers before may do."""
    gained = []
    for seed in range(8):
        network = random_network(seed, "spikes")
        x0 = random_spikes(network, seed)
        problem = problem_of(network, x0, network(x0).argmax(1), random_set(seed, x0))
        start = METHODS["s-crown"](problem, BoundOptions())
        found = METHODS["alpha-s-crown"](problem, BoundOptions(iterations=4))
        assert (found >= start - 1e-5).all()
        gained.append(found - start)
    assert torch.cat(gained).amax() > 0.01


# Joint against separate, and counts against steps.


@torch.no_grad()
def test_joint_is_tighter_than_separate() -> None:
    """Random LIF networks, before S-IBP's margins are taken in."""
    tighter = []
    for seed in range(10):
        torch.manual_seed(seed)
        draw = random.Random(seed)
        sizes = (16, 24, 24, 5)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), LIF(0.25, 0.5)]
        network = SpikingNetwork(layers[:-1], draw.choice([2, 4, 7, 10]), "membrane").eval()
        x, ball = torch.rand(8, 16), LinfBall(draw.choice([0.01, 0.02, 0.05, 0.1]))
        y = network(x).argmax(1)
        one, other = (raw_margins(network, x, y, ball, relaxation) for relaxation in RELAXED)
        tighter.append(one >= other - 1e-6)
        assert (one.mean() > other.mean()).all()
    assert torch.stack(tighter).double().mean() >= 0.95


@pytest.mark.parametrize("relaxation", RELAXED)
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_networks_in_the_count_domain_are_nowhere_below_s_ibp(
    method: str, relaxation: Literal["joint", "separate"]
) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 8), IF(0.3), nn.Linear(8, 8), IF(0.4), nn.Linear(8, 3), IF(0.3)]
        network = SpikingNetwork(layers, 4).eval()
        x, ball = torch.rand(2, 4), LinfBall(0.05)
        y = network(x).argmax(1)
        for arithmetic in (PLAIN, RIGOROUS):
            problem = problem_of(network, x, y, ball, arithmetic)
            interval = METHODS["s-ibp"](problem, BoundOptions())
            found = METHODS[method](problem, BoundOptions(relaxation=relaxation, iterations=1))
            assert (found >= interval - 1e-9).all()


# What must not change the bounds.

THREATS: dict[str, Threat] = {
    "flips": SpikeFlips(2),
    "ball": LinfBall(0.05),
    "coupled": CoupledBernoulli(0.05, 3),
}


def under(threat: Threat, seed: int, batch: int) -> tuple[SpikingNetwork, Tensor]:
    """A float64 network for a threat, and a batch as the threat takes it."""
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 7), LIF(0.3, 0.7), nn.Linear(7, 6), LIF(0.3, 0.5, 0.1), nn.Linear(6, 3)]
    network = SpikingNetwork(layers, 3, "membrane", threat.network_input).eval().double()
    x = torch.rand(batch, 5) if threat.domain == "image" else (torch.rand(3, batch, 5) < 0.5).float()
    return network, x.double()


def labels(batch: int) -> Tensor:
    return torch.arange(batch) % 3


def quick(
    network: SpikingNetwork, x: Tensor, threat: Threat, method: str, options: BoundOptions, index: Tensor
) -> Tensor:
    x0, input_set = threat.bind(x, index)
    problem = problem_of(network, x0, labels(100)[index], input_set)
    return METHODS[method](problem, options).detach()


@pytest.mark.parametrize("name", THREATS)
@pytest.mark.parametrize("method", ["s-crown-ibp", "s-crown", "alpha-s-crown"])
def test_bounds_do_not_depend_on_the_memory(method: str, name: str) -> None:
    """In ever smaller pieces, until not even one row of one sample fits."""
    threat = THREATS[name]
    network, x = under(threat, 1, 4)
    index = torch.arange(4)
    whole = quick(network, x, threat, method, BoundOptions(iterations=1), index)
    memory, pieces = 2**20, 0
    while True:
        memory = memory * 2 // 3
        assert memory > 0, "a budget of nothing must be refused"
        try:
            found = quick(network, x, threat, method, BoundOptions(memory=memory, iterations=1), index)
        except ValueError as error:
            assert "--memory" in str(error)
            assert "MiB" in str(error)
            break
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
        pieces += 1
    assert memory < 2**16
    assert pieces > 3


@pytest.mark.parametrize("name", THREATS)
@pytest.mark.parametrize("method", OURS)
def test_samples_are_bounded_independently(method: str, name: str) -> None:
    threat = THREATS[name]
    network, x = under(threat, 2, 4)
    index = torch.arange(4)
    together = quick(network, x, threat, method, BoundOptions(iterations=1), index)
    for sample in range(4):
        own = x[[sample]] if threat.domain == "image" else x[:, [sample]]
        found = quick(network, own, threat, method, BoundOptions(iterations=1), index[[sample]])
        torch.testing.assert_close(found[0], together[sample], rtol=0, atol=1e-9)


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["image", "spikes"])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_an_empty_threat_gives_the_executed_margins(
    method: str, kind: Literal["image", "spikes"], readout: Literal["rate", "membrane"]
) -> None:
    for seed in range(3):
        network = random_network(seed + 50, kind, readout)
        x = random_images(seed) if kind == "image" else random_spikes(network, seed)
        empty: InputSet = LinfBall(0.0) if kind == "image" else SpikeFlips(0)
        y = network(x).argmax(1)
        executed = least_margins(network, y, [x])
        for found, tolerance in every_bound(network, x, y, empty, method):
            torch.testing.assert_close(found.double(), executed, rtol=0, atol=1e-4)
            assert (found <= executed + tolerance).all()


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("kind", ["image", "spikes"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_single_class_and_an_empty_batch(method: str, kind: str, depth: int) -> None:
    torch.manual_seed(0)
    hidden: list[nn.Module] = [nn.Linear(4, 4), LIF(0.2)]
    threat = LinfBall(0.1) if kind == "image" else SpikeFlips(1)
    for classes, batch in ((1, 2), (2, 0), (1, 0)):
        layers = [*hidden * depth, nn.Linear(4, classes), LIF(0.2)]
        network = SpikingNetwork(layers, 3, "rate", threat.network_input).eval()
        x = torch.rand(batch, 4) if kind == "image" else torch.ones(3, batch, 4)
        for rounding in (False, True):
            verdict = certify(network, x, labels(batch) * 0, threat, method, rounding=rounding)
            assert verdict.margins.shape == (batch, classes - 1)
            assert verdict.status == (["certified"] * batch if classes == 1 else [])


# Gradients.


@pytest.mark.parametrize("relaxation", RELAXED)
@pytest.mark.parametrize("name", THREATS)
def test_gradients_are_those_of_finite_differences(
    name: str, relaxation: Literal["joint", "separate"]
) -> None:
    """A surrogate of no width: the gradient of what the bound is, away from its jumps."""
    threat = THREATS[name]
    torch.manual_seed(3)
    narrow = Rectangle(1e-12)
    layers = [nn.Linear(5, 7), LIF(0.3, 0.7, surrogate=narrow), nn.Linear(7, 3)]
    network = SpikingNetwork(layers, 3, "membrane", threat.network_input).eval().double()
    x = torch.rand(2, 5) if threat.domain == "image" else (torch.rand(3, 2, 5) < 0.5).float()
    x0, input_set = threat.bind(x.double(), torch.arange(2))
    y = labels(2)
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}

    def bound(*_: Tensor) -> Tensor:
        return raw_margins(network, x0, y, input_set, relaxation)

    assert torch.autograd.gradcheck(bound, tuple(parameters.values()), atol=1e-6)
    found = margin_bounds(network, x0, y, input_set, "s-crown-ibp", relaxation=relaxation)
    assert torch.equal(found, torch.maximum(bound(), margin_bounds(network, x0, y, input_set)))
    gradients = torch.autograd.grad(bound().sum(), tuple(parameters.values()))
    assert all(bool(gradient.any()) for gradient in gradients)
    for gradient in torch.autograd.grad(found.sum(), tuple(parameters.values())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("threat", [LinfBall(0.1), SpikeFlips(2)], ids=str)
@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_s_crown_ibp_trains_the_network(threat: Threat, readout: Literal["rate", "membrane"]) -> None:
    """With batch norm, convolution, pooling and learnt neurons: every parameter gets a finite gradient."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(1, 2, 2, padding=1),
        nn.BatchNorm2d(2),
        LIF(0.3, 0.7, learn_threshold=True, learn_decay=True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
        LIF(0.3, 0.7, "subtract", learn_threshold=True, learn_decay=True),
    ]
    layers += [nn.Linear(3, 3)] if readout == "membrane" else []
    network = SpikingNetwork(layers, 3, readout, threat.network_input).eval()
    x = torch.rand(4, 1, 4, 3) if threat.domain == "image" else (torch.rand(3, 4, 1, 4, 3) < 0.5).float()
    margins = margin_bounds(network, x, torch.tensor([0, 1, 2, 0]), threat, "s-crown-ibp")
    margins.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


# Errors.

IMAGES = SpikingNetwork([nn.Linear(3, 2), LIF()], 4)
X, Y = torch.rand(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "crown"), "s-crown-ibp"),
        (lambda: certify(IMAGES, X, Y, LinfBall(0.1), "s-crown", relaxation="loose"), "joint, separate"),  # type: ignore[arg-type]
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=0), "memory"),
        (lambda: margin_bounds(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=100), "--memory"),
    ],
)
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_small_budget_is_an_error_of_the_verdict() -> None:
    """Not of the whole call: a cheaper method may still decide."""
    verdict = certify(IMAGES, X, Y, LinfBall(0.1), "s-crown-ibp", memory=100)
    assert verdict.status == ["error", "error"]
    assert all("--memory" in reason for reason in verdict.reason)
    assert not verdict.margins.isfinite().any()
