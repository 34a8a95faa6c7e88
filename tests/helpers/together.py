"""What the tests of several processes run in each of them; also run as a script, by one process of several.

together.py FOLDER            trains every case of CASES below FOLDER, writes FOLDER/rank.json
together.py FOLDER WORDS...   certsnn WORDS, where the second process fails in training
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monitors import Stop
from torch import nn

from certsnn.cli import launch
from certsnn.cli.distributed import launched
from certsnn.data import SpikeDataset
from certsnn.data.digits import digits
from certsnn.encoding import Bernoulli
from certsnn.errors import UserError
from certsnn.graph import Residual
from certsnn.inputsets import CoupledBernoulli, LinfBall, SpikeFlips, Threat
from certsnn.networks import SpikingNetwork
from certsnn.neurons import IF, LIF
from certsnn.processes import Processes
from certsnn.train import loop
from certsnn.train.augmentation import Translations
from certsnn.train.averaging import EMA
from certsnn.train.config import TrainingConfig
from certsnn.train.loop import Task, train
from certsnn.train.monitor import Monitor, Row
from certsnn.train.objectives.adversarial import Adversarial
from certsnn.train.objectives.certified import Certified
from certsnn.train.regularisers import FiringRate, Tightness
from certsnn.train.schedules import Ramp


class Stopping(Monitor):
    """Raises `Stop` after the first epoch."""

    def started(self, epochs: int, batches: int, epoch: int) -> None:
        return None

    def batch_done(self) -> None:
        return None

    def epoch_done(self, row: Row) -> None:
        raise Stop

    def warn(self, message: str) -> None:
        return None


def task_of(threat: Threat) -> Task:
    images = digits("train", Path(), False).head(301)
    if threat.domain == "image":
        return Task(*images.split(0.2, 0), threat)
    bits = Bernoulli(3)(images.images, images.index).bool().transpose(0, 1)
    return Task(*SpikeDataset("digits as spikes", bits, images.labels, 10).split(0.2, 0), threat)


def plain(kind: str = "image") -> SpikingNetwork:
    layers = [nn.Flatten(), nn.Linear(64, 20), IF(initial=0.5), nn.Linear(20, 10)]
    return SpikingNetwork(layers, 3, "membrane", kind)  # type: ignore[arg-type]


def spikes() -> SpikingNetwork:
    return plain("spikes")


def normed() -> SpikingNetwork:
    # No biases before a norm: their gradients are rounding alone, which Adam makes as large as any.
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), LIF(0.25, 0.5), nn.Flatten()]
    layers += [nn.Linear(144, 20, bias=False), nn.BatchNorm1d(20), LIF(0.25, 0.5), nn.Linear(20, 10)]
    return SpikingNetwork(layers, 3, "membrane")


def residual() -> SpikingNetwork:
    """Batch norm in bodies and in a projection, all of which see the whole batch."""

    def block(size: int) -> list[nn.Module]:
        return [nn.Conv2d(4, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4)]

    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), LIF(0.25, 0.5)]
    layers += [Residual([*block(3), LIF(0.25, 0.5)]), Residual(block(3), block(1)), LIF(0.25, 0.5)]
    return SpikingNetwork([*layers, nn.Flatten(), nn.Linear(144, 10)], 3, "membrane")


Case = tuple[Callable[[], SpikingNetwork], Threat, TrainingConfig]
AIDS = (Tightness(2.0, 0.9), FiringRate(2.0, 0.3, 0.4))
CASES: Mapping[str, Case] = {
    # The last batch of 241 samples has a single one: a process is left without.
    "plain": (plain, LinfBall(0.02), TrainingConfig(Certified(Ramp(0, 1)), batch_size=48, epochs=2)),
    "spikes": (
        spikes,
        CoupledBernoulli(0.02, 3),
        TrainingConfig(Certified(Ramp(0, 1)), batch_size=80, epochs=2),
    ),
    # Fewer steps than either process has samples; moved samples must be the same in both.
    "events": (
        spikes,
        SpikeFlips(1),
        TrainingConfig(Certified(Ramp(0, 1)), batch_size=48, epochs=2, augmentation=Translations(1)),
    ),
    # Batches of 79, 79, 79 and 4: shares of 39 and 40.
    "averaged": (
        normed,
        LinfBall(0.02),
        TrainingConfig(Certified(Ramp(0, 1)), batch_size=79, epochs=2, averaging=EMA(0.9)),
    ),
    "normed": (
        normed,
        LinfBall(0.02),
        TrainingConfig(Certified(Ramp(0, 4), regularisers=AIDS), batch_size=79, epochs=2),
    ),
    "residual": (
        residual,
        LinfBall(0.02),
        TrainingConfig(Certified(Ramp(0, 4), regularisers=AIDS), batch_size=79, epochs=1),
    ),
    "adversarial": (
        normed,
        LinfBall(0.05),
        TrainingConfig(Adversarial(Ramp(0, 0), 2), batch_size=79, epochs=1),
    ),
}


def trained(
    name: str, folder: Path, processes: Processes, monitor: Monitor | None = None
) -> tuple[SpikingNetwork, list[Row]]:
    """The network of a case after its training, and the rows of its epochs."""
    build, threat, settings = CASES[name]
    torch.manual_seed(0)
    network = build()
    progress = train(network, task_of(threat), settings, folder, seed=3, monitor=monitor, processes=processes)
    return network, progress.rows


def flat(network: SpikingNetwork) -> list[float]:
    found: list[float] = torch.cat(
        [value.flatten().double() for value in network.state_dict().values()]
    ).tolist()
    return found


def all_cases(folder: Path) -> None:
    with launched("cpu") as processes:
        found = {}
        for name in CASES:
            network, rows = trained(name, folder / name, processes)
            found[name] = {"rows": rows, "weights": flat(network)}
        # Begun by these two and gone on with by one alone; and the other way round.
        try:
            trained("plain", folder / "begun", processes, Stopping())
        except Stop:
            network, rows = trained("plain", folder / "alone", processes)
        found["alone"] = {"rows": rows, "weights": flat(network)}
        (folder / f"{processes.rank}.json").write_text(json.dumps(found))


def command_that_fails(words: list[str]) -> None:
    from certsnn.cli.app import main

    def broken(*arguments: object) -> None:
        raise UserError("the second process is broken")

    if os.environ["RANK"] == "1":
        loop.validate = broken  # type: ignore[assignment]
    sys.exit(main(words))


@contextmanager
def two(*words: str | Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one group, without a launcher; killed at the end if they are still there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=os.environ | environment | {"MASTER_PORT": str(port), "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,
        )
        for rank in ("0", "1")
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def said(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each, which must end."""
    found: list[Any] = []
    for process in processes:
        out, err = process.communicate(timeout=90)
        found.append((process.returncode, out, err))
    return found


def heed_ctrl_c() -> None:
    """Undo what a shell does to the jobs it runs in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    if sys.argv[2:]:
        command_that_fails(sys.argv[2:])
    else:
        all_cases(Path(sys.argv[1]))
        launch.ended(0)
