"""The joint relaxation against the separate one, and against S-IBP, on random LIF networks.

    python benchmarks/relaxations.py [NETWORKS] [SEED]      # writes benchmarks/results/relaxations.md

16-24-24-5, decay 0.25, reset to zero, membrane readout, T from 2 to 10, eps within the range of each row, 8
images each, bounds of the layers by S-IBP, not intersected.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from certsnn import __version__
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.bounds.linear.margins import backward_margins, interval_layers, levels_of
from certsnn.bounds.linear.relaxation import RELAXATIONS
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.bounds.problem import Problem
from certsnn.files import write_text
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import LIF

RESULTS = Path(__file__).parent / "results"
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
    found, layers = interval_layers(case)
    rows = {"S-IBP": found}
    for name, relaxation in RELAXATIONS.items():
        rows[name] = backward_margins(case, layers, levels_of(case, layers, relaxation))
    rows["s-crown"] = METHODS["s-crown"](case, BoundOptions())
    return rows


def main(networks: int = 200, seed: int = 0) -> None:
    torch.set_num_threads(1)
    lines = [
        "# Joint against separate relaxation\n",
        f"{networks} random LIF networks a row (16-24-24-5, threshold and decay 0.25, reset to zero, "
        f"membrane readout, T from 2 to 10, seeds from {seed}), {SAMPLES} images and 4 margins each. Mean "
        "margin bounds; S-IBP bounds of the layers, not intersected, except s-crown (S-CROWN layers, joint, "
        "intersected).\n",
        f"`python benchmarks/relaxations.py {networks} {seed}`; certsnn {__version__}, torch "
        f"{torch.__version__}, Python {platform.python_version()}.\n",
        "| eps | S-IBP | separate | joint | s-crown | joint at least as tight as separate |",
        "|---|---|---|---|---|---|",
    ]
    for low, high in EPS:
        columns: dict[str, list[Tensor]] = {}
        for number in range(networks):
            for name, found in margins(problem(seed + number, low, high)).items():
                columns.setdefault(name, []).append(found.flatten())
        mean = {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}
        joint, separate = torch.cat(columns["joint"]), torch.cat(columns["separate"])
        share = 100 * float((joint >= separate - 1e-6).double().mean())
        lines.append(
            f"| {low:g}-{high:g} | {mean['S-IBP']:.3f} | {mean['separate']:.3f} | {mean['joint']:.3f} | "
            f"{mean['s-crown']:.3f} | {share:.1f}% of margins |"
        )
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / "relaxations.md", text)
    print(text)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
