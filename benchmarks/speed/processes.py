"""What a second process brings to certified training: two processes of one thread each against one.

    python benchmarks/speed/processes.py [ROUNDS]    # writes benchmarks/results/processes.{json,md}

Each round trains the same batches with one process and with two, each of its own start, in turn; a figure is
the median over rounds of the samples a second that a whole step (forward, bounds, backward, exchange, Adam)
takes, start and first steps left out. The global batch is the same in both, so a process of two has half of
it; half of 256 is what configs give one process. Random images in MNIST's shape, IF, T = 4, LinfBall(0.1),
S-IBP. For a machine with nothing else to do.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import nn

from certsnn.architectures import build
from certsnn.cli.distributed import launched
from certsnn.inputsets import LinfBall
from certsnn.neurons import IF
from certsnn.processes import Processes
from certsnn.train.objectives.base import Samples
from certsnn.train.objectives.certified import Certified
from certsnn.train.schedules import Moment, Ramp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record

NETWORKS = {"fc, 784-512-512-10": "wide-fc", "small CNN": "small-cnn"}
BATCHES, STEPS, WARM_UP = (128, 256), 20, 4


def samples_per_second(name: str, batch: int, processes: Processes) -> float:
    """Of training steps on one batch after another, the median over `STEPS`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(name, (1, 28, 28), 10, partial(IF, initial=0.5), 4, "membrane", "image").train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    objective = Certified(Ramp(0, 0))
    share = processes.share(batch)
    seconds = []
    for _ in range(WARM_UP + STEPS):
        x, y = torch.rand(batch, 1, 28, 28), torch.randint(10, (batch,))
        held = Samples(x[share.held], y[share.held], torch.arange(batch)[share.held])
        processes.others("")  # both begin at once
        begun = time.perf_counter()
        network.batch = processes.batch(share)
        terms = objective.terms(network, held, LinfBall(0.1), Moment(1, 1))
        optimizer.zero_grad()
        (terms.loss * share.weight).backward()
        processes.sum_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 8.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return batch / median(seconds[WARM_UP:])


def print_samples_per_second(name: str, batch: int) -> None:
    """In each process; the first one prints."""
    with launched("cpu") as processes:
        rate = samples_per_second(name, batch, processes)
        processes.once(lambda: print(rate, flush=True))
    os._exit(0)  # as certsnn.cli.launch.ended


def measured(name: str, batch: int, count: int) -> float:
    """Samples a second of so many new processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--measure", name, str(batch)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process failed; {name}, {count} processes")
    return float(printed[0])


COLUMNS = record.columns(
    "network, batch of both together | one process (samples/s) | two processes (samples/s) | ratio",
    "{title} | {one:.0f} | {two:.0f} | {two/one:.2f}",
)


def page(found: record.Row) -> str:
    rows = [
        {"title": title, "one": rates["1"], "two": rates["2"]}
        for title, rates in found["samples_per_second"].items()
    ]
    return f"# Certified training in two processes\n\n{found['setting']}\n\n{record.table(COLUMNS, rows)}"


def main(rounds: int = 5) -> None:
    found: dict[str, dict[str, list[float]]] = {
        f"{title}, batch {batch}": {"1": [], "2": []} for title in NETWORKS for batch in BATCHES
    }
    for _ in range(rounds):
        for (name, batch), rates in zip(product(NETWORKS.values(), BATCHES), found.values(), strict=True):
            for count in rates:
                rates[count].append(measured(name, batch, int(count)))
    medians = {
        title: {count: median(rates) for count, rates in by_count.items()}
        for title, by_count in found.items()
    }
    setting = record.setting(**{"threads of each process": 1, "rounds": rounds, "steps": STEPS})
    result = {"setting": setting, "samples_per_second": medians, "rounds": found}
    record.write("processes", result, page(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print_samples_per_second(sys.argv[2], int(sys.argv[3]))
    else:
        record.run(main)
