"""The state of a training between two epochs, and its way into checkpoints and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from certsnn.errors import CheckpointError
from certsnn.files import digest, write_text
from certsnn.networks import SpikingNetwork
from certsnn.processes import Processes
from certsnn.train.averaging import Average, copied
from certsnn.train.checkpoint import Checkpoint, load_latest, pack_optimizer, save, unpack_optimizer
from certsnn.train.monitor import Monitor, Row


@final
@dataclass
class Progress:
    """Where a run stands: epochs done, the best validation so far, and a row of figures for each epoch."""

    epoch: int = 0
    seconds: float = 0.0
    best: tuple[float, float] | None = None
    rows: list[Row] = field(default_factory=list)


@final
@dataclass
class State:
    """A network in training, and all that a checkpoint holds beside it.

    ``best``: the weights of the best epoch, those of the start until there is one.
    ``average``: of the weights, which is validated.
    ``identity``: must be that of a checkpoint for it to be resumed (the config).
    """

    network: SpikingNetwork
    optimizer: torch.optim.Optimizer
    progress: Progress
    best: dict[str, Tensor]
    average: Average
    identity: Mapping[str, Any]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the averaged weights while the block runs, then with its own."""
        own = copied(self.network.state_dict())
        self.network.load_state_dict(self.average.tensors)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def consider(self, score: tuple[float, float]) -> None:
        """Keep the averaged weights if no epoch before had a lower score.

        On a tie the later epoch wins: it has trained longer, at a lower rate.
        """
        if self.progress.best is None or score <= self.progress.best:
            self.progress.best, self.best = score, copied(self.average.tensors)

    def agree(self, processes: Processes) -> None:
        """Raise UserError where processes are at another epoch, or hold other weights."""
        if processes.count == 1:
            return
        processes.agree(
            json.dumps([self.progress.epoch, self.progress.best, digest(self.network.state_dict())]),
            "their weights differ. All of them must see the same run folder, and compute on devices of the "
            "same kind with the same version of torch",
        )

    def checkpoint(self) -> Checkpoint:
        """All of it, with the state of torch's generators."""
        slots, groups = pack_optimizer(self.optimizer)
        tensors = {f"network.{name}": value for name, value in copied(self.network.state_dict()).items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | slots
        tensors |= {f"average.{name}": value for name, value in self.average.tensors.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "epoch": self.progress.epoch,
            "seconds": self.progress.seconds,
            "best": self.progress.best,
            "rows": self.progress.rows,
            "averaged": self.average.updates,
            "groups": groups,
            "identity": self.identity,
        }
        return Checkpoint(tensors, facts)


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Save the checkpoint, and its rows of figures as metrics.jsonl."""
    save(folder, checkpoint)
    rows = checkpoint.facts["rows"]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def resumed(
    network: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    identity: Mapping[str, Any],
    monitor: Monitor,
) -> State:
    """The state of the folder's last checkpoint, put into network and optimiser; a new one without any.

    Raises:
        CheckpointError: if the checkpoints are another run's, or none of them is whole.
    """
    checkpoint, refused = load_latest(folder)
    for message in refused:
        monitor.warn(f"{message}; going on from the checkpoint before it")
    if checkpoint is None:
        start = network.state_dict()
        return State(network, optimizer, Progress(), copied(start), Average(start), identity)
    facts, tensors = checkpoint.facts, checkpoint.tensors
    if facts["identity"] != identity:
        raise CheckpointError(
            f"{folder} holds the checkpoints of a run with another config; name another folder with "
            "--run, or remove this one"
        )
    network.load_state_dict(_part(tensors, "network."))
    unpack_optimizer(optimizer, tensors, facts["groups"])
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    best = None if facts["best"] is None else (facts["best"][0], facts["best"][1])
    progress = Progress(facts["epoch"], facts["seconds"], best, facts["rows"])
    average = Average(_part(tensors, "average."), facts["averaged"])
    return State(network, optimizer, progress, _part(tensors, "best."), average, identity)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
