"""What bounds cost, against the plain forward pass and the natural training step, in one process.

    python benchmarks/bounds.py [THREADS] [DATA]      # writes benchmarks/results/bounds.{json,md}

784-512-512-10, T = 8 (S-CROWN: 4 and 8), batch 64, membrane readout, random weights and images. With DATA, a
folder with MNIST, S-CROWN layers of the pretrained mnist-lif-eps0.1, too. Where auto_LiRPA is installed (see
the README), its bounds of the same network run in the same process. All figures are medians over rounds in
which the variants take turns, so that a slow moment of the machine meets all of them alike. "Products" are
the matrix products of the backward pass alone: no method that pulls dense rows back can be faster.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn import __version__
from certsnn.affine import Dense
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.interval.propagate import interval_margins
from certsnn.bounds.interval.topk import any_weights, feasible_flips
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.data import load
from certsnn.files import write_text
from certsnn.inputsets import LinfBall
from certsnn.interop.auto_lirpa import Engine
from certsnn.models import load_model
from certsnn.networks import Program, SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.train.objectives.certified import robust_cross_entropy

RESULTS = Path(__file__).parent / "results"
ROUNDS, WARM_UP = 30, 3
FULL, TRAINED = 8, 64
"""Images for S-CROWN with S-CROWN layers: of the random network, and of the pretrained one."""
PRETRAINED = "mnist-lif-eps0.1"
THREAT = LinfBall(0.1)
LIRPA = importlib.util.find_spec("auto_LiRPA") is not None


def leaky() -> Neuron:
    return LIF(0.25, 0.25)


NEURONS: dict[str, Callable[[], Neuron]] = {
    "IF, reset by subtraction (count domain)": lambda: IF(1.0, initial=0.5),
    "LIF, decay 0.25, reset to zero (steps)": leaky,
}


def network_of(neuron: Callable[[], Neuron], steps: int = 8) -> SpikingNetwork:
    torch.manual_seed(0)
    widths = (784, 512, 512)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), neuron()]
    return SpikingNetwork([*layers, nn.Linear(512, 10)], steps, "membrane")


def medians(
    variants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Median milliseconds of each variant; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + rounds):
        for name, call in variants.items():
            begun = time.perf_counter()
            call()
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def certified_step(network: SpikingNetwork, x: Tensor, y: Tensor) -> None:
    network.zero_grad()
    logits, frozen = network.forward_and_freeze(x)
    margins, _ = interval_margins(pose(frozen, x, y, THREAT, PLAIN), any_weights)
    (F.cross_entropy(logits, y) + robust_cross_entropy(margins)).backward()


def measure(neuron: Callable[[], Neuron], x: Tensor, y: Tensor) -> dict[str, float]:
    network = network_of(neuron)
    program = network.freeze()

    @torch.no_grad()
    def bound(arithmetic: Arithmetic) -> Tensor:
        return interval_margins(pose(program, x, y, THREAT, arithmetic), feasible_flips)[0]

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


def bound_by(program: Program, x: Tensor, y: Tensor, method: str) -> Callable[[], Tensor]:
    input_set = THREAT.bind(x, torch.arange(len(x)))[1]
    problem = pose(program, x, y, input_set, PLAIN)
    return torch.no_grad()(lambda: METHODS[method](problem, BoundOptions()))


def measure_crown(steps: int, x: Tensor, y: Tensor) -> dict[str, float]:
    """S-CROWN with S-IBP layers, by certsnn and by auto_LiRPA, on LIF neurons."""
    program = network_of(leaky, steps).freeze()
    weighted = [stage.operators[-1] for stage in program.stages]
    held, later = (one.weight for one in weighted if isinstance(one, Dense))
    rows = torch.randn(9 * len(x) * steps, len(later))
    variants = {
        "forward": torch.no_grad()(lambda: program.run(x)),
        "products": torch.no_grad()(lambda: (rows @ later, rows[: 9 * len(x)] @ held)),
        "s_ibp": bound_by(program, x, y, "s-ibp"),
        "s_crown_ibp": bound_by(program, x, y, "s-crown-ibp"),
    }
    input_set = THREAT.bind(x, torch.arange(len(x)))[1]
    if LIRPA:
        engine = Engine(program, x)
        variants["lirpa_crown_ibp"] = lambda: engine.margins(input_set, y, "crown-ibp")
    return medians(variants)


def measure_full(program: Program, x: Tensor, y: Tensor) -> dict[str, float]:
    """S-CROWN with S-CROWN layers, by certsnn and by auto_LiRPA: median milliseconds of three."""
    variants = {"s_crown": bound_by(program, x, y, "s-crown")}
    input_set = THREAT.bind(x, torch.arange(len(x)))[1]
    if LIRPA:
        engine = Engine(program, x)
        variants["lirpa_crown"] = lambda: engine.margins(input_set, y, "crown")
    return medians(variants, rounds=3, warm_up=1)


def measure_trained(data: str) -> dict[str, float]:
    """`measure_full` of the pretrained network on the first test images."""
    x, y, _ = load("mnist", "test", data)[range(TRAINED)]
    return measure_full(load_model(PRETRAINED).network.freeze(), x, y)


def peak_memory(steps: int) -> float:
    """MiB that a certified training step needs beyond what is there before it, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def print_peak_memory(steps: int) -> None:
    torch.set_num_threads(1)
    network = network_of(next(iter(NEURONS.values())), steps)
    x, y = torch.rand(64, 784), torch.arange(64) % 10
    before = resident("VmRSS")
    certified_step(network, x, y)
    print(resident("VmHWM") - before)


def resident(name: str) -> float:
    """MiB of this process now (VmRSS) or at its peak (VmHWM), on Linux."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 784, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    found = {name: measure(neuron, x, y) for name, neuron in NEURONS.items()}
    crown = {steps: measure_crown(steps, x, y) for steps in (4, 8)}
    full = {
        f"random weights, T = 4, {FULL} images": measure_full(
            network_of(leaky, 4).freeze(), x[:FULL], y[:FULL]
        )
    }
    if len(sys.argv) > 2:
        full[f"{PRETRAINED}, T = 4, first {TRAINED} MNIST test images"] = measure_trained(sys.argv[2])
    memory = {steps: peak_memory(steps) for steps in (64, 128, 256)}
    setting = {
        "network": "784-512-512-10, T=8, batch 64, membrane readout, LinfBall(0.1)",
        "threads": threads,
        "certsnn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    result = {
        "setting": setting,
        "milliseconds": found,
        "crown_milliseconds_by_steps": crown,
        "full_crown_milliseconds": full,
        "peak_memory_MiB_by_steps": memory,
    }
    write_text(RESULTS / "bounds.json", json.dumps(result, indent=2) + "\n")
    text = table(setting, found, memory) + crown_table(crown, full)
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


def crown_table(crown: dict[int, dict[str, float]], full: dict[str, dict[str, float]]) -> str:
    lines = [
        "\n## S-CROWN, LIF, rounding=False\n",
        "| T | forward (ms) | products (ms) | S-CROWN-IBP (ms) | / forward | auto_LiRPA 0.3 CROWN-IBP (ms) | "
        "/ S-CROWN-IBP |",
        "|---|---|---|---|---|---|---|",
    ]
    for steps, ms in crown.items():
        mine, other = ms["s_crown_ibp"], ms.get("lirpa_crown_ibp")
        cells = [
            f"{ms['forward']:.1f}",
            f"{ms['products']:.1f}",
            f"{mine:.1f}",
            f"{mine / ms['forward']:.1f}",
        ]
        lines.append(f"| {steps} | {' | '.join(cells)} | {beside(other, mine)} |")
    lines += [
        "\n| S-CROWN layers | s-crown (ms) | auto_LiRPA 0.3 CROWN (ms) | / s-crown |",
        "|---|---|---|---|",
    ]
    for name, ms in full.items():
        mine = ms["s_crown"]
        lines.append(f"| {name} | {mine:.0f} | {beside(ms.get('lirpa_crown'), mine)} |")
    return "\n".join(lines) + "\n"


def beside(other: float | None, mine: float) -> str:
    """The other engine's milliseconds and their ratio, as columns."""
    return "- | -" if other is None else f"{other:.0f} | {other / mine:.2f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_peak_memory(int(sys.argv[2]))
    else:
        main()
