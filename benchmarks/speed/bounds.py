"""What bounds cost, against the plain forward pass and the natural training step, in one process.

    python benchmarks/speed/bounds.py [ROOT]      # writes benchmarks/results/bounds.{json,md}

784-512-512-10 and a small CNN, T = 8 (beside auto_LiRPA: 4 and 8), batch 64, membrane readout, random weights
and images, with one thread and with two, by torch alone and with compiled kernels. With ROOT, a folder with
MNIST, S-CROWN layers of pretrained models, too. Where auto_LiRPA is installed (see the README), its bounds of
the same network run in the same process. All figures are medians over rounds in which the variants take
turns, so that a slow moment of the machine meets all of them alike. "Products" are the matrix products of the
backward pass alone: no method that pulls dense rows back can be faster.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise, product
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certsnn.affine import Dense
from certsnn.bounds.certify import pose
from certsnn.bounds.interval.arithmetic import PLAIN, RIGOROUS, Arithmetic
from certsnn.bounds.methods import METHODS
from certsnn.bounds.options import BoundOptions
from certsnn.cli.allocator import keep_freed_memory
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
from certsnn.train.objectives.bounds import CrownMargins, IntervalMargins, MarginBound
from certsnn.train.objectives.certified import robust_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

ROUNDS, WARM_UP = 9, 2
TRAINED = 24
"""Images for S-CROWN with S-CROWN layers."""
PRETRAINED = ("mnist-lif-eps0.1", "mnist-fc-eps0.1")
THREADS = (1, 2)
THREAT = LinfBall(0.1)
CHOICES = {name: Choice(name == NUMBA, 0) for name in (TORCH, NUMBA) if name == TORCH or installed()}
"""Kernels in torch, and compiled where numba is installed; they take turns."""
LIRPA = importlib.util.find_spec("auto_LiRPA") is not None


def leaky() -> Neuron:
    return LIF(0.25, 0.25)


NEURONS: dict[str, Callable[[], Neuron]] = {"LIF": leaky, "IF": lambda: IF(1.0, initial=0.5)}


def dense(neuron: Callable[[], Neuron], steps: int = 8) -> SpikingNetwork:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise((784, 512, 512)):
        layers += [nn.Linear(inputs, outputs), neuron()]
    return SpikingNetwork([*layers, nn.Linear(512, 10)], steps, "membrane")


def convolutional(neuron: Callable[[], Neuron], steps: int = 8) -> SpikingNetwork:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 16, 4, 2, 1), neuron(), nn.Conv2d(16, 32, 4, 2, 1), neuron()]
    return SpikingNetwork([*first, nn.Flatten(), nn.Linear(32 * 49, 10)], steps, "membrane")


NETWORKS = {"784-512-512-10": dense, "CNN 16-32": convolutional}


def step(network: SpikingNetwork, x: Tensor, y: Tensor, bound: MarginBound) -> None:
    """A certified training step."""
    network.zero_grad()
    logits, frozen = network.forward_and_freeze(x)
    margins, _ = bound(pose(frozen, x, y, THREAT, PLAIN), 0.0)
    (F.cross_entropy(logits, y) + robust_cross_entropy(margins)).backward()


def by(chosen: Choice, compute: Callable[[], object]) -> Callable[[], object]:
    """The same, with these kernels."""

    def run() -> object:
        with patch.object(choice, "_choice", lambda: chosen):
            return compute()

    return run


def in_turns(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each variant, by the kernels that compute."""
    turns = {f"{name} {k}": by(CHOICES[name], compute) for k, compute in variants.items() for name in CHOICES}
    found = record.medians(turns, rounds, WARM_UP)
    return {name: {k: found[f"{name} {k}"] for k in variants} for name in CHOICES}


def measure(network: SpikingNetwork, x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    program = network.freeze()

    def natural() -> None:
        network.zero_grad()
        F.cross_entropy(network.forward_and_freeze(x)[0], y).backward()

    return in_turns(
        {
            "forward": torch.no_grad()(lambda: program.run(x)),
            "s_ibp": bound_by(program, x, y, "s-ibp"),
            "s_ibp_rounding": bound_by(program, x, y, "s-ibp", RIGOROUS),
            "s_crown_ibp": bound_by(program, x, y, "s-crown-ibp"),
            "s_crown_ibp_rounding": bound_by(program, x, y, "s-crown-ibp", RIGOROUS),
            "natural_step": natural,
            "certified_step": lambda: step(network, x, y, IntervalMargins()),
            "s_crown_step": lambda: step(network, x, y, CrownMargins()),
        },
        ROUNDS,
    )


def bound_by(
    program: Program, x: Tensor, y: Tensor, method: str, arithmetic: Arithmetic = PLAIN
) -> Callable[[], Tensor]:
    input_set = THREAT.bind(x, torch.arange(len(x)))[1]
    problem = pose(program, x, y, input_set, arithmetic)
    return torch.no_grad()(lambda: METHODS[method](problem, BoundOptions()))


def measure_crown(neuron: Callable[[], Neuron], steps: int, x: Tensor, y: Tensor) -> dict[str, float]:
    """S-CROWN with S-IBP layers, by certsnn and by auto_LiRPA."""
    program = dense(neuron, steps).freeze()
    weighted = [stage.link.operators[-1] for stage in program.stages]
    held, later = (one.weight for one in weighted if isinstance(one, Dense))
    rows = torch.randn(9 * len(x) * steps, len(later))
    crown = bound_by(program, x, y, "s-crown-ibp")
    variants = {
        "forward": torch.no_grad()(lambda: program.run(x)),
        "products": torch.no_grad()(lambda: (rows @ later, rows[: 9 * len(x)] @ held)),
        **{f"s_crown_ibp_{name}": by(chosen, crown) for name, chosen in CHOICES.items()},
        **lirpa(program, x, y, "ibp"),
        **lirpa(program, x, y, "crown-ibp"),
    }
    return record.medians(variants, ROUNDS, WARM_UP)


def lirpa(program: Program, x: Tensor, y: Tensor, method: str) -> dict[str, Callable[[], object]]:
    """A method of auto_LiRPA, where that is installed."""
    if not LIRPA:
        return {}
    engine, input_set = Engine(program, x), THREAT.bind(x, torch.arange(len(x)))[1]
    return {f"lirpa_{method.replace('-', '_')}": lambda: engine.margins(input_set, y, method)}


def measure_trained(root: Path, name: str, arithmetic: Arithmetic) -> dict[str, float]:
    """S-CROWN with S-CROWN layers of a pretrained network on the first test images."""
    x, y, _ = load("mnist", "test", root)[range(TRAINED)]
    program = load_model(name).network.freeze()
    found = in_turns({"s_crown": bound_by(program, x, y, "s-crown", arithmetic)}, 3)
    return {kernels: row["s_crown"] for kernels, row in found.items()}


def peak_memory(steps: int) -> float:
    """MiB that a certified training step needs beyond what is there before it, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def print_peak_memory(steps: int) -> None:
    torch.set_num_threads(1)
    network = dense(NEURONS["IF"], steps)
    x, y = torch.rand(64, 784), torch.arange(64) % 10
    before = resident("VmRSS")
    step(network, x, y, IntervalMargins())
    print(resident("VmHWM") - before)


def resident(name: str) -> float:
    """MiB of this process now (VmRSS) or at its peak (VmHWM), on Linux."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


COLUMNS = record.columns(
    "network; kernels; threads | forward (ms) | S-IBP / forward | S-IBP with rounding / forward | "
    "S-CROWN-IBP / forward | S-CROWN-IBP with rounding / forward | natural step (ms) | "
    "certified / natural step | S-CROWN / natural step",
    "{name} | {forward:.1f} | {s_ibp/forward:.2f} | {s_ibp_rounding/forward:.2f} | "
    "{s_crown_ibp/forward:.1f} | {s_crown_ibp_rounding/forward:.1f} | {natural_step:.1f} | "
    "{certified_step/natural_step:.2f} | {s_crown_step/natural_step:.1f}",
)
CROWN_COLUMNS = record.columns(
    "neuron, T, threads | forward (ms) | products (ms) | S-CROWN-IBP by torch (ms) | compiled (ms) | "
    "compiled / forward | auto_LiRPA 0.3: IBP (ms) | CROWN-IBP (ms) | CROWN-IBP / compiled",
    "{name} | {forward:.1f} | {products:.1f} | {s_crown_ibp_torch:.1f} | {s_crown_ibp_numba:.1f} | "
    "{s_crown_ibp_numba/forward:.1f} | {lirpa_ibp:.1f} | {lirpa_crown_ibp:.1f} | "
    "{lirpa_crown_ibp/s_crown_ibp_numba:.2f}",
)
FULL_COLUMNS = record.columns(
    "S-CROWN layers | torch (ms) | compiled (ms) | torch / compiled",
    "{name} | {torch:.0f} | {numba:.0f} | {torch/numba:.2f}",
)


def page(found: record.Row) -> str:
    memory = [{"T": steps, "MiB": size} for steps, size in found["peak_memory_MiB_by_steps"].items()]
    full = record.named(found["full_crown_milliseconds"])
    return f"""\
# Cost of bounds

{found["setting"]}

{record.table(COLUMNS, record.named(found["milliseconds"]))}
{record.table({"T": "{T}", "peak memory of a certified step (MiB)": "{MiB:.0f}"}, memory)}
## S-CROWN-IBP of 784-512-512-10, 9 rows, rounding=False

{record.table(CROWN_COLUMNS, record.named(found["crown_milliseconds"]))}
## S-CROWN layers, the first {TRAINED} MNIST test images, one thread

{record.table(FULL_COLUMNS, full) if full else ""}"""


def main(*roots: Path) -> None:
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    rows, crown, full = {}, {}, {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for (kind, make), (name, neuron) in product(NETWORKS.items(), NEURONS.items()):
            for kernels, row in measure(make(neuron), x, y).items():
                rows[f"{kind}, {name}; {kernels}; {threads}"] = row
        for (name, neuron), steps in product(NEURONS.items(), (4, 8)):
            crown[f"{name}, {steps}, {threads}"] = measure_crown(neuron, steps, x, y)
    torch.set_num_threads(1)
    for root, name in product(roots, PRETRAINED):
        for words, arithmetic in (("rounding left out", PLAIN), ("rounding covered", RIGOROUS)):
            full[f"{name}, {words}"] = measure_trained(root, name, arithmetic)
    network = f"T=8, batch 64, membrane readout, {THREAT.describe()}"
    found = {
        "setting": record.setting(network=network, threads=THREADS),
        "milliseconds": rows,
        "crown_milliseconds": crown,
        "full_crown_milliseconds": full,
        "peak_memory_MiB_by_steps": {steps: peak_memory(steps) for steps in (64, 128, 256)},
    }
    record.write("bounds", found, page(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        print_peak_memory(int(sys.argv[2]))
    else:
        record.run(main)
