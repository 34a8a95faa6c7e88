"""The joint relaxation against the separate one, and against S-IBP, on random LIF networks.

    python benchmarks/tightness/relaxations.py [NETWORKS] [SEED]      # writes results/relaxations.{json,md}

16-24-24-5, decay 0.25, reset to zero, membrane readout, T from 2 to 10, eps within the range of each row, 8
images each, bounds of the layers by S-IBP, not intersected.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.linear.margins import backward_margins, interval_bounds
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

SAMPLES = 8
EPS = ((0.01, 0.025), (0.025, 0.05), (0.05, 0.1))


def problem(seed: int, low: float, high: float) -> Problem:
    """A random network and images, with T from 2 to 10 and eps between low and high."""
    torch.manual_seed(seed)
    steps = int(torch.randint(2, 11, ()))
    eps = low + (high - low) * float(torch.rand(()))
    layers = [nn.Linear(16, 24), LIF(0.25, 0.25), nn.Linear(24, 24), LIF(0.25, 0.25), nn.Linear(24, 5)]
    network = SpikingNetwork(layers, steps, "membrane").eval()
    x = torch.rand(SAMPLES, 16)
    y = network(x).argmax(1)
    x0, members = LinfBall(eps).bind(x, torch.arange(SAMPLES))
    return pose(network.freeze(), x0, y, members, PLAIN)


@torch.no_grad()
def margins(case: Problem) -> dict[str, Tensor]:
    found, sources = interval_bounds(case)
    rows = {"s_ibp": found}
    for name, relaxation in RELAXATIONS.items():
        rows[name] = backward_margins(case, sources, relaxation)
    rows["s_crown"] = METHODS["s-crown"](case, BoundOptions())
    return rows


def row(networks: int, seed: int, low: float, high: float) -> record.Row:
    """Mean margins, and the share in percent in which joint is no looser than separate."""
    found = [margins(problem(seed + number, low, high)) for number in range(networks)]
    joined = {name: torch.cat([one[name].flatten() for one in found]) for name in found[0]}
    tighter = joined["joint"] >= joined["separate"] - 1e-6
    means = {name: float(values.mean()) for name, values in joined.items()}
    return {"low": low, "high": high, **means, "tighter": 100 * float(tighter.double().mean())}


COLUMNS = record.columns(
    "eps | S-IBP | separate | joint | s-crown | joint at least as tight as separate",
    "{low:g}-{high:g} | {s_ibp:.3f} | {separate:.3f} | {joint:.3f} | {s_crown:.3f} | "
    "{tighter:.1f}% of margins",
)


def page(found: record.Row) -> str:
    networks, seed = found["networks"], found["seed"]
    return f"""\
# Joint against separate relaxation

{networks} random LIF networks a row (16-24-24-5, threshold and decay 0.25, reset to zero, \
membrane readout, T from 2 to 10, seeds from {seed}), {SAMPLES} images and 4 margins each. Mean \
margin bounds; S-IBP bounds of the layers, not intersected, except s-crown (S-CROWN layers, joint, \
intersected).

`python benchmarks/tightness/relaxations.py {networks} {seed}`; {found["versions"]}.

{record.table(COLUMNS, found["rows"])}"""


def main(networks: int = 200, seed: int = 0) -> None:
    torch.set_num_threads(1)
    rows = [row(networks, seed, *eps) for eps in EPS]
    found = {"networks": networks, "seed": seed, "versions": record.versions(), "rows": rows}
    record.write("relaxations", found, page(found))


if __name__ == "__main__":
    record.run(main)
