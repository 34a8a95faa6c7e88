"""What bounds cost, against the plain forward pass and the natural training step, in one process.

    python benchmarks/bounds.py [THREADS]      # writes benchmarks/results/bounds.{json,md}

784-512-512-10, T = 8, batch 64, membrane readout, random images. All figures are medians over rounds in
which the variants take turns, so that a slow moment of the machine meets all of them alike.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn import __version__
from certsnn.bounds.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.flips import AnyWeights, FeasibleFlips
from certsnn.bounds.ibp import interval_margins
from certsnn.files import write_text
from certsnn.inputsets import LinfBall
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.train.objectives import robust_cross_entropy

RESULTS = Path(__file__).parent / "results"
ROUNDS, WARM_UP = 30, 3
THREAT = LinfBall(0.1)
NEURONS: dict[str, Callable[[], Neuron]] = {
    "IF, reset by subtraction (count domain)": lambda: IF(1.0, initial=0.5),
    "LIF, decay 0.25, reset to zero (steps)": lambda: LIF(0.25, 0.25),
}


def network_of(neuron: Callable[[], Neuron], steps: int = 8) -> SpikingNetwork:
    torch.manual_seed(0)
    widths = (784, 512, 512)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), neuron()]
    return SpikingNetwork([*layers, nn.Linear(512, 10)], steps, "membrane")


def medians(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each variant; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(WARM_UP + ROUNDS):
        for name, call in variants.items():
            begun = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def certified_step(network: SpikingNetwork, x: Tensor, y: Tensor) -> None:
    network.zero_grad()
    logits, frozen = network.forward_and_freeze(x)
    margins, _ = interval_margins(frozen, x, y, THREAT, PLAIN, AnyWeights())
    (F.cross_entropy(logits, y) + robust_cross_entropy(margins)).backward()


def measure(neuron: Callable[[], Neuron], x: Tensor, y: Tensor) -> dict[str, float]:
    network = network_of(neuron)
    program = network.freeze()

    @torch.no_grad()
    def bound(arithmetic: Arithmetic) -> Tensor:
        return interval_margins(program, x, y, THREAT, arithmetic, FeasibleFlips())[0]

    @torch.no_grad()
    def forward() -> Tensor:
        return program.run(x)

    def natural() -> None:
        network.zero_grad()
        F.cross_entropy(network.forward_and_freeze(x)[0], y).backward()

    return medians(
        {
            "forward": forward,
            "s_ibp": lambda: bound(PLAIN),
            "s_ibp_rounding": lambda: bound(RIGOROUS),
            "natural_step": natural,
            "certified_step": lambda: certified_step(network, x, y),
        }
    )


def peak_memory(steps: int) -> float:
    """MiB that a certified training step needs beyond what is there before it, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def print_peak_memory(steps: int) -> None:
    torch.set_num_threads(1)
    network = network_of(next(iter(NEURONS.values())), steps)
    x, y = torch.rand(64, 784), torch.arange(64) % 10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    certified_step(network, x, y)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 784, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    found = {name: measure(neuron, x, y) for name, neuron in NEURONS.items()}
    memory = {steps: peak_memory(steps) for steps in (64, 128, 256, 512)}
    setting = {
        "network": "784-512-512-10, T=8, batch 64, membrane readout, LinfBall(0.1)",
        "threads": threads,
        "certsnn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    result = {"setting": setting, "milliseconds": found, "peak_memory_MiB_by_steps": memory}
    write_text(RESULTS / "bounds.json", json.dumps(result, indent=2) + "\n")
    text = table(setting, found, memory)
    write_text(RESULTS / "bounds.md", text)
    print(text)


def table(setting: dict[str, object], found: dict[str, dict[str, float]], memory: dict[int, float]) -> str:
    lines = [
        f"# Cost of bounds\n\n{setting}\n",
        "| neuron | forward (ms) | S-IBP / forward | with rounding / forward | natural step (ms) | "
        "certified / natural step |",
        "|---|---|---|---|---|---|",
    ]
    for name, ms in found.items():
        ratios = [ms["s_ibp"] / ms["forward"], ms["s_ibp_rounding"] / ms["forward"]]
        step = ms["certified_step"] / ms["natural_step"]
        lines.append(
            f"| {name} | {ms['forward']:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | "
            f"{ms['natural_step']:.1f} | {step:.2f} |"
        )
    lines += ["", "| T | peak memory of a certified step (MiB) |", "|---|---|"]
    lines += [f"| {steps} | {size:.0f} |" for steps, size in memory.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_peak_memory(int(sys.argv[2]))
    else:
        main()
