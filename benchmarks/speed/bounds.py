"""What bounds cost, against the plain forward pass and the natural training step, in one process.

    python benchmarks/speed/bounds.py [THREADS] [ROOT]      # writes benchmarks/results/bounds.{json,md}

784-512-512-10, T = 8 (S-CROWN: 4 and 8), batch 64, membrane readout, random weights and images. With ROOT, a
folder with MNIST, S-CROWN layers of the pretrained mnist-lif-eps0.1, too. Where auto_LiRPA is installed (see
the README), its bounds of the same network run in the same process. All figures are medians over rounds in
which the variants take turns, so that a slow moment of the machine meets all of them alike. "Products" are
the matrix products of the backward pass alone: no method that pulls dense rows back can be faster.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.interval.propagate import interval_margins
from certsnn.bounds.interval.topk import any_weights, feasible_flips
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.data import load
from certsnn.inputsets import LinfBall
from certsnn.interop.auto_lirpa import Engine
from certsnn.kernels import choice
from certsnn.kernels.choice import Choice
from certsnn.kernels.setting import NUMBA, TORCH, installed
from certsnn.models import load_model
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF, Neuron
from certsnn.program import Program
from certsnn.train.objectives.certified import robust_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

ROUNDS, WARM_UP = 30, 3
FULL, TRAINED = 8, 64
"""Images for S-CROWN with S-CROWN layers: of the random network, and of the pretrained one."""
PRETRAINED = "mnist-lif-eps0.1"
THREAT = LinfBall(0.1)
CHOICES = {name: Choice(name == NUMBA, 0) for name in (TORCH, NUMBA) if name == TORCH or installed()}
"""Kernels in torch, and compiled where numba is installed; they take turns."""
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


def certified_step(network: SpikingNetwork, x: Tensor, y: Tensor) -> None:
    network.zero_grad()
    logits, frozen = network.forward_and_freeze(x)
    margins, _ = interval_margins(pose(frozen, x, y, THREAT, PLAIN), any_weights)
    (F.cross_entropy(logits, y) + robust_cross_entropy(margins)).backward()


def by(chosen: Choice, compute: Callable[[], object]) -> Callable[[], object]:
    """The same, with these kernels."""

    def run() -> object:
        with patch.object(choice, "_choice", lambda: chosen):
            return compute()

    return run


def measure(neuron: Callable[[], Neuron], x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """Median milliseconds by the kernels that compute."""
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

    variants = {
        "forward": forward,
        "s_ibp": lambda: bound(PLAIN),
        "s_ibp_rounding": lambda: bound(RIGOROUS),
        "natural_step": natural,
        "certified_step": lambda: certified_step(network, x, y),
    }
    turns = {f"{name} {k}": by(CHOICES[name], compute) for k, compute in variants.items() for name in CHOICES}
    found = record.medians(turns, ROUNDS, WARM_UP)
    return {name: {k: found[f"{name} {k}"] for k in variants} for name in CHOICES}


def bound_by(program: Program, x: Tensor, y: Tensor, method: str) -> Callable[[], Tensor]:
    input_set = THREAT.bind(x, torch.arange(len(x)))[1]
    problem = pose(program, x, y, input_set, PLAIN)
    return torch.no_grad()(lambda: METHODS[method](problem, BoundOptions()))


def measure_crown(steps: int, x: Tensor, y: Tensor) -> dict[str, float]:
    """S-CROWN with S-IBP layers, by certsnn and by auto_LiRPA, on LIF neurons."""
    program = network_of(leaky, steps).freeze()
    weighted = [stage.link.operators[-1] for stage in program.stages]
    held, later = (one.weight for one in weighted if isinstance(one, Dense))
    rows = torch.randn(9 * len(x) * steps, len(later))
    variants = {
        "forward": torch.no_grad()(lambda: program.run(x)),
        "products": torch.no_grad()(lambda: (rows @ later, rows[: 9 * len(x)] @ held)),
        "s_ibp": bound_by(program, x, y, "s-ibp"),
        "s_crown_ibp": bound_by(program, x, y, "s-crown-ibp"),
        **lirpa(program, x, y, "crown-ibp"),
    }
    return record.medians(variants, ROUNDS, WARM_UP)


def measure_full(program: Program, x: Tensor, y: Tensor) -> dict[str, float]:
    """S-CROWN with S-CROWN layers, by certsnn and by auto_LiRPA: median milliseconds of three."""
    variants = {"s_crown": bound_by(program, x, y, "s-crown"), **lirpa(program, x, y, "crown")}
    return record.medians(variants, rounds=3, warm_up=1)


def lirpa(program: Program, x: Tensor, y: Tensor, method: str) -> dict[str, Callable[[], object]]:
    """A method of auto_LiRPA, where that is installed."""
    if not LIRPA:
        return {}
    engine, input_set = Engine(program, x), THREAT.bind(x, torch.arange(len(x)))[1]
    return {f"lirpa_{method.replace('-', '_')}": lambda: engine.margins(input_set, y, method)}


def measure_trained(root: Path) -> dict[str, float]:
    """`measure_full` of the pretrained network on the first test images."""
    x, y, _ = load("mnist", "test", root)[range(TRAINED)]
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


NEURON_COLUMNS = record.columns(
    "neuron; kernels | forward (ms) | S-IBP / forward | with rounding / forward | natural step (ms) | "
    "certified / natural step",
    "{name} | {forward:.1f} | {s_ibp/forward:.2f} | {s_ibp_rounding/forward:.2f} | {natural_step:.1f} | "
    "{certified_step/natural_step:.2f}",
)
CROWN_COLUMNS = record.columns(
    "T | forward (ms) | products (ms) | S-CROWN-IBP (ms) | / forward | auto_LiRPA 0.3 CROWN-IBP (ms) | "
    "/ S-CROWN-IBP",
    "{name} | {forward:.1f} | {products:.1f} | {s_crown_ibp:.1f} | {s_crown_ibp/forward:.1f} | "
    "{lirpa_crown_ibp:.0f} | {lirpa_crown_ibp/s_crown_ibp:.2f}",
)
FULL_COLUMNS = record.columns(
    "S-CROWN layers | s-crown (ms) | auto_LiRPA 0.3 CROWN (ms) | / s-crown",
    "{name} | {s_crown:.0f} | {lirpa_crown:.0f} | {lirpa_crown/s_crown:.2f}",
)


def page(found: record.Row) -> str:
    memory = [{"T": steps, "MiB": size} for steps, size in found["peak_memory_MiB_by_steps"].items()]
    crown = [{"lirpa_crown_ibp": None, **r} for r in record.named(found["crown_milliseconds_by_steps"])]
    full = [{"lirpa_crown": None, **row} for row in record.named(found["full_crown_milliseconds"])]
    return f"""\
# Cost of bounds

{found["setting"]}

{record.table(NEURON_COLUMNS, record.named(found["milliseconds"]))}
{record.table({"T": "{T}", "peak memory of a certified step (MiB)": "{MiB:.0f}"}, memory)}
## S-CROWN, LIF, rounding=False

{record.table(CROWN_COLUMNS, crown)}
{record.table(FULL_COLUMNS, full)}"""


def main(threads: int = 2, *roots: Path) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 784, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    neurons = {
        f"{name}; {kernels}": row
        for name, neuron in NEURONS.items()
        for kernels, row in measure(neuron, x, y).items()
    }
    crown = {steps: measure_crown(steps, x, y) for steps in (4, 8)}
    random = measure_full(network_of(leaky, 4).freeze(), x[:FULL], y[:FULL])
    full = {f"random weights, T = 4, {FULL} images": random}
    for root in roots:
        full[f"{PRETRAINED}, T = 4, first {TRAINED} MNIST test images"] = measure_trained(root)
    network = f"784-512-512-10, T=8, batch 64, membrane readout, {THREAT.describe()}"
    found = {
        "setting": record.setting(network=network, threads=threads),
        "milliseconds": neurons,
        "crown_milliseconds_by_steps": crown,
        "full_crown_milliseconds": full,
        "peak_memory_MiB_by_steps": {steps: peak_memory(steps) for steps in (64, 128, 256)},
    }
    record.write("bounds", found, page(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_peak_memory(int(sys.argv[2]))
    else:
        record.run(main)
