"""S-CROWN: one backward pass against a plain reference, and its gradients."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Literal

import pytest
import torch
from small_networks import (
    RELAXED,
    THREATS,
    labels,
    others,
    random_images,
    random_network,
    random_set,
    random_spikes,
    raw_margins,
)
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds import layer_bounds, margin_bounds
from certsnn.inputsets import InputSet, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF, Dynamics
from certsnn.surrogates import Rectangle


def envelope_line(a: float, c: float, low: float, high: float, dynamics: Dynamics) -> tuple[float, float]:
    """Slope and intercept of the envelope's segment over the midpoint, from its three points."""
    threshold, decay, _, gain, offset = (float(value) for value in dynamics.numbers())
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
