"""Margins on record: a change that should leave behaviour as it is must leave these as they are.

python tests/helpers/recorded.py        records them anew, in tests/records/recorded_margins.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certsnn.bounds import margin_bounds
from certsnn.inputsets import CoupledBernoulli, FreeSpikes, LinfBall, SpikeFlips, SpikeShift, Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron

FILE = Path(__file__).parents[1] / "records" / "recorded_margins.json"
STEPS, BATCH, CLASSES = 4, 2, 6
METHODS = ("s-ibp", "s-crown-ibp", "s-crown", "alpha-s-crown", "branch-and-bound", "auto")

NEURONS: Mapping[str, Callable[[], Neuron]] = {
    "lif": lambda: LIF(0.3, 0.6),
    "lif-subtract": lambda: LIF(0.3, 0.6, "subtract", initial=0.1),
    "if": lambda: IF(0.4, initial=0.2),
}


def dense(neuron: Callable[[], Neuron]) -> list[nn.Module]:
    """Two layers with a batch norm, on ``[2, 3, 4]``."""
    first, second = nn.Linear(24, 16), nn.Linear(16, 12)
    return [nn.Flatten(), first, nn.BatchNorm1d(16), neuron(), second, neuron(), nn.Linear(12, CLASSES)]


def convolutional(neuron: Callable[[], Neuron]) -> list[nn.Module]:
    """A convolution, a pooling and a dense layer, on ``[2, 3, 4]``."""
    head = [nn.Flatten(), nn.Linear(18, 10), neuron(), nn.Linear(10, CLASSES)]
    return [nn.Conv2d(2, 3, 2, padding=1), neuron(), nn.AvgPool2d(2), *head[:1], nn.Linear(12, 10), *head[2:]]


BODIES = {"dense": dense, "convolutional": convolutional}
THREATS: Mapping[str, Threat] = {
    "linf": LinfBall(0.02),
    "flips": SpikeFlips(1),
    "shift": SpikeShift(1, 1),
    "coupled": CoupledBernoulli(0.02, STEPS, seed=3),
    "free": FreeSpikes(0.02, seed=7),
}


def network_of(body: str, neuron: str, input: Domain) -> SpikingNetwork:
    """A network whose weights depend on torch's generator alone."""
    torch.manual_seed(len(body) + 7 * len(neuron))
    network = SpikingNetwork(BODIES[body](NEURONS[neuron]), STEPS, "membrane", input)
    for layer in network.layers:
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean = torch.rand(layer.num_features) - 0.5
            layer.running_var = torch.rand(layer.num_features) + 0.2
    return network.eval()


def cases() -> Iterator[tuple[str, SpikingNetwork, Threat, Tensor, Tensor]]:
    """All networks under all threats: name, network, threat, inputs and the classes that they get."""
    for body, neuron, (name, threat) in product(BODIES, NEURONS, THREATS.items()):
        network = network_of(body, neuron, threat.network_input)
        x = torch.rand(BATCH, 2, 3, 4)
        if threat.domain == "spikes":
            x = (torch.rand(STEPS, BATCH, 2, 3, 4) < 0.4).float()
        x0, _ = threat.bind(x, torch.arange(BATCH))
        yield f"{body} {neuron} {name}", network, threat, x, network(x0).argmax(1)


def margins(method: str, rounding: bool) -> dict[str, list[list[float]]]:
    """The margins of all cases by one method."""
    found = {}
    for name, network, threat, x, y in cases():
        with torch.no_grad():
            bounds = margin_bounds(network, x, y, threat, method, rounding=rounding)
        found[name] = bounds.double().tolist()
    return found


def surroundings() -> dict[str, str]:
    """What the last digits depend on."""
    return {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability()}


def load() -> dict[str, Any]:
    """What is on record."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def record() -> None:
    """Write the margins of today."""
    torch.set_num_threads(1)
    every = {
        f"{method} {rounding}": margins(method, rounding)
        for method, rounding in product(METHODS, (True, False))
    }
    FILE.write_text(json.dumps({"surroundings": surroundings(), "margins": every}))


if __name__ == "__main__":
    record()
