"""What bounds of the layers by backward passes gain on random residual networks.

    python benchmarks/tightness/residual.py [NETWORKS] [SEED]      # writes results/residual.{json,md}

Two residual blocks between dense layers: shortcuts on spikes (SEW), on currents (membrane), and projected
ones. Threshold 0.25, membrane readout, T = 5, 8 inputs each; rounding covered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import RIGOROUS
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.graph import Residual
from certsnn.inputsets import LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

STEPS, SAMPLES, SIZE = 5, 8, 16
SHORTCUTS = ("spikes", "currents", "projected")
NEURONS: dict[str, Callable[[], Neuron]] = {"LIF": lambda: LIF(0.25, 0.5), "IF": lambda: IF(0.25)}
THREATS: tuple[Threat, ...] = (LinfBall(0.03), SpikeFlips(1))
COMPARED = ("s-ibp", "s-crown-ibp", "s-crown")


def network_of(shortcut: str, neuron: Callable[[], Neuron], threat: Threat) -> SpikingNetwork:
    """A network whose weights depend on torch's generator alone."""

    def linear() -> nn.Linear:
        return nn.Linear(SIZE, SIZE)

    def block() -> list[nn.Module]:
        if shortcut == "spikes":
            return [Residual([linear(), neuron()])]
        if shortcut == "currents":
            return [Residual([neuron(), linear()])]
        return [Residual(linear(), linear()), neuron()]

    first = [linear()] if shortcut == "currents" else [linear(), neuron()]
    last = [neuron()] if shortcut == "currents" else []
    layers = [*first, *block(), *block(), *last, nn.Linear(SIZE, 4)]
    return SpikingNetwork(layers, STEPS, "membrane", threat.network_input).eval()


def problem(seed: int, shortcut: str, neuron: Callable[[], Neuron], threat: Threat) -> Problem:
    """A random network and its inputs."""
    torch.manual_seed(seed)
    network = network_of(shortcut, neuron, threat)
    x = torch.rand(SAMPLES, SIZE)
    if threat.domain == "spikes":
        x = (torch.rand(STEPS, SAMPLES, SIZE) < 0.3).float()
    x0, members = threat.bind(x, torch.arange(SAMPLES))
    return pose(network.freeze(), x0, network(x0).argmax(1), members, RIGOROUS)


@torch.no_grad()
def row(networks: int, seed: int, shortcut: str, neuron: str, threat: Threat) -> record.Row:
    """Mean margins of each method, and how often s-crown is tighter and looser than s-ibp."""
    found: dict[str, list[Tensor]] = {name: [] for name in COMPARED}
    for number in range(networks):
        case = problem(seed + number, shortcut, NEURONS[neuron], threat)
        for name in COMPARED:
            found[name].append(METHODS[name](case, BoundOptions()))
    joined = {name: torch.cat(margins).flatten() for name, margins in found.items()}
    gain = joined["s-crown"] - joined["s-ibp"]
    return {
        "shortcut": shortcut,
        "neuron": neuron,
        "threat": threat.describe(),
        "means": {name: float(margins.mean()) for name, margins in joined.items()},
        "tighter": 100 * float((gain > 0).double().mean()),
        "looser": 100 * float((gain < 0).double().mean()),
    }


COLUMNS = record.columns(
    "shortcuts | neurons | threat | s-ibp | s-crown-ibp | s-crown | s-crown tighter than s-ibp | looser",
    "{shortcut} | {neuron} | `{threat}` | {means[s-ibp]:.3f} | {means[s-crown-ibp]:.3f} | "
    "{means[s-crown]:.3f} | {tighter:.1f}% of margins | {looser:.1f}%",
)


def page(found: record.Row) -> str:
    networks, seed = found["networks"], found["seed"]
    return f"""\
# Bounds of residual networks

{networks} random networks a row: two residual blocks of {SIZE} neurons between dense layers, threshold \
0.25, LIF with decay 0.5 or IF, reset to zero, membrane readout, T = {STEPS}, seeds from {seed}; \
{SAMPLES} inputs and 3 margins each. Mean margin bounds, rounding covered.

`python benchmarks/tightness/residual.py {networks} {seed}`; {found["versions"]}.

{record.table(COLUMNS, found["rows"])}"""


def main(networks: int = 10, seed: int = 0) -> None:
    torch.set_num_threads(1)
    rows = [
        row(networks, seed, shortcut, neuron, threat)
        for threat in THREATS
        for neuron in NEURONS
        for shortcut in SHORTCUTS
    ]
    found = {"networks": networks, "seed": seed, "versions": record.versions(), "rows": rows}
    record.write("residual", found, page(found))


if __name__ == "__main__":
    record.run(main)
