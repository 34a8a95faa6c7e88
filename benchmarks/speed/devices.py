"""Steps of training and verification on a GPU beside the CPU, in one process.

    python benchmarks/speed/devices.py    # writes benchmarks/results/devices.{json,md}

The networks and steps of `training_step.py` (batch 128), then images per second verified with rounding
covered (float64), in one batch of 256 for S-IBP and 32 for S-CROWN on S-IBP. Medians, in wall time; a GPU is
waited for. The CPU has as many threads as torch gives it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from certsnn.architectures import build
from certsnn.bounds import certify
from certsnn.cli.allocator import keep_freed_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
from speed.training_step import NEURONS, THREAT, Steps, measure

CASES = [(architecture, steps) for architecture in ("fc", "small-cnn") for steps in (2, 8)]
NEURON = "LIF"
VERIFIED = {"s-ibp": 256, "s-crown-ibp": 32}
ROUNDS = 5


def waited(device: str) -> float:
    """Seconds on the clock, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def per_second(device: str, architecture: str, steps: int, method: str, samples: int) -> float:
    """Images that are verified in a second."""
    torch.manual_seed(0)
    network = build(architecture, (1, 28, 28), 10, NEURONS[NEURON], steps).to(device).eval()
    x, y = torch.rand(samples, 1, 28, 28).to(device), torch.arange(samples).to(device) % 10
    clock = partial(waited, device)
    spent = record.medians({method: lambda: certify(network, x, y, THREAT, method)}, ROUNDS, 1, clock)
    return 1e3 * samples / spent[method]


def row(device: str, architecture: str, steps: int) -> record.Row:
    clock: Callable[[], float] = partial(waited, device)
    spent = measure(Steps(architecture, NEURON, steps, device, clock))
    natural, certified = spent["natural"]["step"], spent["certified"]["step"]
    found: record.Row = {"network": architecture, "T": steps, "device": device}
    found |= {"natural ms": natural, "certified ms": certified, "ratio": certified / natural}
    for method, samples in VERIFIED.items():
        found[f"{method} /s"] = per_second(device, architecture, steps, method, samples)
    return found


def page(found: record.Row) -> str:
    rows = record.plain_table(found["rows"], 3)
    return f"# A GPU beside the CPU\n\n{record.explained(__doc__)}\n\n{found['setting']}\n\n{rows}"


def main() -> None:
    keep_freed_memory()
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    rows = [row(device, *case) for case in CASES for device in devices]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    found = {"setting": record.setting(gpu=gpu, threads=torch.get_num_threads()), "rows": rows}
    record.write("devices", found, page(found))


if __name__ == "__main__":
    record.run(main)
