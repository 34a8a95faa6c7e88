"""SpikingJelly's network for DVS-Gesture at the size of event cameras: time and peak memory of each task.

    python benchmarks/speed/event_network.py measure [ROUNDS]    # writes results/event-network.{json,md}

Five blocks of convolution (128 channels), batch norm, LIF and 2x2 max pooling, then Linear layers, with
random weights on random spikes (2 x 64 x 64 and 2 x 128 x 128, rate 0.05), T = 16, one sample, one flip. A
certified step is a natural pass, S-IBP's bounds and the gradients of both, in training mode. Each task runs
in a process of its own: its peak memory is what the process grows by.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from certsnn.architectures import build
from certsnn.bounds import certify
from certsnn.bounds.certify import bind, pose
from certsnn.bounds.interval.arithmetic import PLAIN
from certsnn.cli.allocator import keep_freed_memory
from certsnn.inputsets import SpikeFlips
from certsnn.neurons import LIF
from certsnn.train.objectives.bounds import IntervalMargins
from certsnn.train.objectives.certified import robust_cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

SIZES, STEPS, CLASSES = (64, 128), 16, 11
SMALL = 32
MEMORY = 2**33
"""Bytes for interval bounds, and as many for coefficients: 2 x 128 x 128 takes more than the default."""
TASKS = ("forward", "certified step", "s-ibp", "s-crown-ibp")


def task_of(name: str, size: int) -> Callable[[], object]:
    """What is measured."""
    torch.manual_seed(0)
    shape = (2, size, size)
    network = build("dvs-gesture", shape, CLASSES, lambda: LIF(0.5, 0.5), STEPS, input="spikes", norm="none")
    x, threat = (torch.rand(STEPS, 1, *shape) < 0.05).float(), SpikeFlips(1)
    y = torch.zeros(1, dtype=torch.int64)

    def certified_step() -> None:
        logits, frozen = network.forward_and_freeze(x)
        x0, input_set = bind(network, x, threat, None)
        margins, _ = IntervalMargins()(pose(frozen, x0, y, input_set, PLAIN), 1.0)
        (F.cross_entropy(logits, y) + robust_cross_entropy(margins)).backward()

    if name == "certified step":
        network.train()
        return certified_step
    network.eval()
    if name == "forward":
        return torch.no_grad()(lambda: network(x))

    def verified() -> None:
        (status,) = certify(network, x, y, threat, name, memory=MEMORY).status
        assert status != "error"

    return verified


def measure_one(name: str, size: int, rounds: int) -> None:
    """Print seconds (the median) and the peak memory in MiB of a task, as JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    task_of(name, SMALL)()  # what is loaded once
    run = task_of(name, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": median(seconds), "MiB": peak / 1024}))


def measure(rounds: int = 1) -> None:
    """Measure all tasks at both sizes."""
    rows = []
    for size in SIZES:
        for name in TASKS:
            command = [sys.executable, __file__, "measure_one", name, str(size), str(rounds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"input": f"2 x {size} x {size}", "task": name} | found)
            print(rows[-1], flush=True)
    record.write_rows("event-network", "A network of event-camera size", FACTS, rows)


FACTS = (
    "SpikingJelly's network for DVS-Gesture (128 channels), random weights and spikes, T = 16, one sample, "
    "`SpikeFlips(1)`, rounding covered in the two verifications, one thread."
)


if __name__ == "__main__":
    record.run(measure, measure_one)
