"""Steps of training and verification on a GPU beside the CPU, in one process.

    python benchmarks/devices.py    # writes benchmarks/results/devices.{json,md}

The networks and steps of `training_step.py` (batch 128), then images per second verified with rounding
covered (float64), in one batch of 256 for S-IBP and 32 for S-CROWN on S-IBP. Medians, in wall time; a GPU is
waited for. The CPU has as many threads as torch gives it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from training_step import NEURONS, THREAT, Steps, measure

from certsnn import __version__
from certsnn.architectures import build
from certsnn.bounds import certify
from certsnn.cli.allocator import keep_freed_memory
from certsnn.files import write_text
from certsnn.report.bench import markdown

RESULTS = Path(__file__).parent / "results"
CASES = [(architecture, steps) for architecture in ("fc", "small-cnn") for steps in (2, 8)]
NEURON = "LIF"
VERIFIED = {"s-ibp": 256, "s-crown-ibp": 32}
ROUNDS = 5
Row = dict[str, float | str | int]


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
    spent = []
    for _ in range(1 + ROUNDS):
        begun = waited(device)
        certify(network, x, y, THREAT, method)
        spent.append(waited(device) - begun)
    return samples / statistics.median(spent[1:])


def row(device: str, architecture: str, steps: int) -> Row:
    clock: Callable[[], float] = partial(waited, device)
    spent = measure(Steps(architecture, NEURON, steps, device, clock))
    natural, certified = spent["natural"]["step"], spent["certified"]["step"]
    found: Row = {"network": architecture, "T": steps, "device": device}
    found |= {"natural ms": natural, "certified ms": certified, "ratio": certified / natural}
    for method, samples in VERIFIED.items():
        found[f"{method} /s"] = per_second(device, architecture, steps, method, samples)
    return found


def table(rows: list[Row]) -> str:
    lines = [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows
    ]
    return markdown(list(rows[0]), lines)


def main() -> None:
    keep_freed_memory()
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    rows = [row(device, *case) for case in CASES for device in devices]
    setting = {
        "certsnn": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
    text = f"# A GPU beside the CPU\n\n{__doc__.split(chr(10), 3)[3].strip()}\n\n{setting}\n\n{table(rows)}"
    write_text(RESULTS / "devices.json", json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")
    write_text(RESULTS / "devices.md", text)
    print(text)


if __name__ == "__main__":
    main()
