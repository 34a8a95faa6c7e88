"""Bounds of networks whose neurons differ, beside networks of one kind of neuron that act alike."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal

import pytest
import torch
from soundness import FURTHER
from torch import Tensor, nn

from certsnn.bounds import layer_bounds, margin_bounds
from certsnn.inputsets import FreeSpikes, LinfBall, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron, Number, OrderName

METHODS = ("s-ibp", *FURTHER)
STEPS, BATCH = 4, 2
Make = Callable[[Number], Neuron]
NEURONS: dict[str, Make] = {
    "zero": lambda size: LIF(0.5 * size, 0.75, initial=0.125 * size),
    "value": lambda size: LIF(0.5 * size, 0.75, 0.25 * size, initial=-0.125 * size),
    "pair": lambda size: LIF(0.5 * size, 0.75, (0.5, -0.25 * size)),
    "subtract": lambda size: LIF(0.5 * size, 0.75, "subtract", initial=0.125 * size),
    "IF": lambda size: IF(0.5 * size, initial=0.25 * size),
}


def spread(size: Number, *shape: int) -> Tensor:
    """Sizes of the neurons (or channels) in the shape of weights."""
    return torch.as_tensor(size).reshape(-1, *shape)


def scaled(
    make: Make,
    sizes: tuple[Number, Number],
    input: Literal["image", "spikes"],
    given: tuple[Number, Number] | None = None,
) -> SpikingNetwork:
    """A convolutional and a dense layer whose weights, thresholds and potentials are times these sizes.

    What a neuron does is the same at any size; with powers of two, bit for bit. ``given``: the sizes as the
    neurons take them, if another way.
    """
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(1, 2, 2, padding=1), nn.Linear(18, 5), nn.Linear(5, 3)
    with torch.no_grad():
        first.weight.mul_(2 * spread(sizes[0], 1, 1, 1))
        second.weight.mul_(3 * spread(sizes[1], 1))
        for layer, size in ((first, sizes[0]), (second, sizes[1])):
            assert layer.bias is not None
            layer.bias.mul_(spread(size))
    neurons = [make(size) for size in given or sizes]
    layers = [first, neurons[0], nn.Flatten(), second, neurons[1], last]
    return SpikingNetwork(layers, STEPS, "membrane", input).eval()


def asked(input: Literal["image", "spikes"], network: SpikingNetwork) -> tuple[Tensor, Tensor, Threat]:
    """Inputs, the classes that the network gives them, and a threat."""
    generator = torch.Generator().manual_seed(1)
    if input == "image":
        x, threat = torch.rand(BATCH, 1, 2, 2, generator=generator), LinfBall(0.05)
    else:
        x = torch.rand(STEPS, BATCH, 1, 2, 2, generator=generator).lt(0.5).float()
        threat = FreeSpikes(0.25, seed=3)  # type: ignore[assignment]
    with torch.no_grad():
        return x, network(x).argmax(1), threat


SIZES = (torch.tensor([0.5, 4.0]).view(2, 1, 1), torch.tensor([1.0, 0.25, 2.0, 8.0, 0.5]))


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(
    ("method", "relaxation"),
    [*product(METHODS, ["joint"]), *product(("s-crown-ibp", "s-crown"), ["separate"])],
)
def test_neurons_of_other_sizes_have_the_same_bounds(
    name: str, relaxation: Literal["joint", "separate"], method: str
) -> None:
    one, several = (scaled(NEURONS[name], sizes, "spikes") for sizes in ((1.0, 1.0), SIZES))
    x, y, threat = asked("spikes", one)
    expected, found = (
        margin_bounds(net, x, y, threat, method, rounding=True, relaxation=relaxation, iterations=2)
        for net in (one, several)
    )
    assert expected.unique().numel() > 1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for (u, s), (v, r), size in zip(
        *(layer_bounds(n, x, threat) for n in (several, one)), SIZES, strict=True
    ):
        assert all(torch.equal(mine, size * theirs) for mine, theirs in zip(u, v, strict=True))
        assert all(map(torch.equal, s, r))


@pytest.mark.parametrize("name", ["pair", "IF"])
@pytest.mark.parametrize("input", ["image", "spikes"])
@pytest.mark.parametrize("method", METHODS)
def test_equal_parameters_are_one_number_bit_for_bit(
    name: str, input: Literal["image", "spikes"], method: str
) -> None:
    kinds = ((1.0, 1.0), (torch.ones(2, 3, 3), torch.ones(5)))
    one, several = (scaled(NEURONS[name], (1.0, 1.0), input, given) for given in kinds)
    x, y, threat = asked(input, one)
    found, expected = (margin_bounds(net, x, y, threat, method, iterations=2) for net in (several, one))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("method", ["s-ibp", "s-crown-ibp"])
def test_gradients_of_equal_parameters_add_up_to_that_of_one_number(name: str, method: str) -> None:
    gradients = []
    for size in (1.0, torch.ones(5)):
        network = scaled(NEURONS[name], (1.0, size), "spikes")
        x, y, threat = asked("spikes", network)
        last = [layer for layer in network.layers if isinstance(layer, Neuron)][-1]
        trained = [last.threshold] if name == "IF" else [last.threshold, last.decay]
        for parameter in trained:
            parameter.requires_grad_()
        margins = margin_bounds(network, x, y, threat, method, rounding=False)
        gradients.append(torch.autograd.grad(margins.sum(), trained))
    for one, several in zip(*gradients, strict=True):
        assert one.abs() > 1e-3
        assert several.ndim == 0 or several.unique().numel() > 1, "neurons get gradients of their own"
        torch.testing.assert_close(several.sum(), one)


@pytest.mark.parametrize("order", ["reset-first", "current-first"])
@pytest.mark.parametrize("lossless", [False, True])
@torch.no_grad()
def test_bounds_hold_for_a_grid_of_images(order: OrderName, lossless: bool) -> None:
    """Two pixels, neurons that differ in all parameters, and every image of a fine grid."""
    won = 0
    for seed in range(4):
        torch.manual_seed(seed)
        draw = [torch.rand(4) for _ in range(6)]
        first: Neuron = LIF(0.2 + draw[0], draw[1], (draw[2], draw[3] - 0.5), 0.4 * draw[4], order=order)
        if lossless:
            first = IF(0.2 + draw[0], (1.0, -0.2 - draw[5]), draw[4] - 0.5, order=order)
        second = LIF(0.3 + torch.rand(3), torch.rand(3), "subtract", order=order)
        layers = [nn.Linear(2, 4), first, nn.Linear(4, 3), second, nn.Linear(3, 3)]
        network = SpikingNetwork(layers, 5, "membrane").eval()
        x, eps = torch.full((1, 2), 0.5), 0.15
        shifts = torch.linspace(-eps, eps, 41)
        logits = network((x + torch.cartesian_prod(shifts, shifts)).clamp(x - eps, x + eps)).double()
        y = network(x).argmax(1)
        rivals = [k for k in range(3) if k != int(y)]
        least = (logits[:, y] - logits[:, rivals]).amin(0)
        ball = LinfBall(eps)
        bounds = {method: margin_bounds(network, x, y, ball, method, rounding=True)[0] for method in METHODS}
        for method, bound in bounds.items():
            assert (bound <= least).all(), method
            assert (bound >= bounds["s-ibp"]).all(), method
        won += int((bounds["alpha-s-crown"] > bounds["s-ibp"] + 1e-4).sum())
    assert won > 0
