"""The training loop: epochs, validation, checkpoints; resumable at any moment."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.data import LabelledDataset, loader
from certsnn.encoding import Encoding
from certsnn.errors import CheckpointError
from certsnn.files import write_text
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork
from certsnn.train.checkpoint import (
    Checkpoint,
    load_latest,
    pack_optimizer,
    save,
    unpack_optimizer,
)
from certsnn.train.config import TrainingConfig
from certsnn.train.objectives import Samples
from certsnn.verification import Summary, summarise, verify

Row = dict[str, float]


class Monitor(ABC):
    """Is told how training goes; shows it or does not."""

    @abstractmethod
    def started(self, epochs: int, batches: int, epoch: int) -> None:
        """Training begins at this epoch (0, or later where it resumes)."""

    @abstractmethod
    def batch_done(self) -> None:
        """One more batch is done."""

    @abstractmethod
    def epoch_done(self, row: Row) -> None:
        """An epoch is done and saved; the row is what metrics.jsonl gets."""

    @abstractmethod
    def warn(self, message: str) -> None:
        """Something that the person should know."""


@final
class Silent(Monitor):
    """Shows nothing."""

    def started(self, epochs: int, batches: int, epoch: int) -> None:
        return None

    def batch_done(self) -> None:
        return None

    def epoch_done(self, row: Row) -> None:
        return None

    def warn(self, message: str) -> None:
        return None


@final
@dataclass(frozen=True)
class Task:
    """What is trained on: the data, how it becomes the network's input, and the threat."""

    train: LabelledDataset
    validation: LabelledDataset
    threat: Threat
    encoding: Encoding | None = None

    def samples(self, batch: tuple[Tensor, Tensor, Tensor], draw: int) -> Samples:
        """A batch as the threat takes it, with the noise of this draw."""
        x, y, index = batch
        encoded = x if self.encoding is None else self.encoding.redrawn(draw)(x, index)
        return Samples(encoded, y, index)


@final
@dataclass
class Progress:
    """Where a run stands: epochs done, the best validation so far, and a row of figures for each epoch."""

    epoch: int = 0
    seconds: float = 0.0
    best: tuple[float, float] | None = None
    rows: list[Row] = field(default_factory=list)


def train(
    network: SpikingNetwork,
    task: Task,
    settings: TrainingConfig,
    folder: Path,
    *,
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
    monitor: Monitor | None = None,
) -> Progress:
    """Train, and leave the best weights (by verified error on validation) in the network.

    The folder gets a checkpoint after every epoch; a run that was killed resumes from the last one and ends
    with the same weights as one that was not.

    Args:
        network: on the device to train on, in float32.
        task: the data and the threat.
        settings: the objective, the schedule and the rest of the config's training part.
        folder: where the checkpoints and metrics.jsonl go.
        seed: of the order of the samples and the noise; torch's own generator must be seeded by the caller.
        identity: what a checkpoint must agree with to be resumed (the config).
        monitor: is told how it goes.

    Raises:
        CheckpointError: if the folder's checkpoints are another run's, or none of them is whole.
        FloatingPointError: if the loss is not a finite number.
    """
    monitor = Silent() if monitor is None else monitor
    device = next(network.parameters()).device
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate.peak)
    progress, best = _resumed(network, optimizer, folder, dict(identity or {}), monitor)
    batches = -(-len(task.train) // settings.batch_size)
    monitor.started(settings.epochs, batches, progress.epoch)
    network.train()
    while progress.epoch < settings.epochs:
        begun = time.perf_counter()
        epoch = progress.epoch
        threat = task.threat.redrawn(epoch + 1)
        sums: dict[str, Tensor] = {}
        order = loader(task.train, settings.batch_size, shuffle_seed=_epoch_seed(seed, epoch))
        for position, batch in enumerate(order):
            now = epoch + position / batches
            samples = Samples(*(part.to(device) for part in task.samples(batch, epoch + 1)))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(now, settings.epochs)
            terms = settings.objective.terms(network, samples, threat, now)
            optimizer.zero_grad()
            terms.loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.gradient_norm)
            optimizer.step()
            for name, value in terms.figures.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(samples.y)
            monitor.batch_done()
        figures = {name: float(total) / len(task.train) for name, total in sums.items()}
        if not torch.isfinite(torch.tensor(figures["loss"])):
            raise FloatingPointError(
                f"the loss is {figures['loss']} in epoch {epoch + 1}; lower training.learning_rate.peak"
            )
        found = validate(network, task)
        progress.epoch += 1
        progress.seconds += time.perf_counter() - begun
        settled = progress.epoch >= min(settings.objective.settled, settings.epochs)
        score = (found.verified_error, found.clean_error)
        # On a tie the later epoch wins: it has trained longer, at a lower rate.
        if settled and (progress.best is None or score <= progress.best):
            progress.best, best = score, _weights(network)
        row = {"epoch": progress.epoch, "seconds": round(progress.seconds, 2)}
        row |= {f"train_{name}": value for name, value in figures.items()}
        row |= {"clean_error": found.clean_error, "verified_error": found.verified_error}
        progress.rows.append(row)
        save(folder, _checkpoint(network, optimizer, progress, best, dict(identity or {})))
        write_text(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in progress.rows))
        monitor.epoch_done(row)
    network.load_state_dict(best)
    return progress


def validate(network: SpikingNetwork, task: Task) -> Summary:
    """Clean and verified error on the validation split, at the full threat, without rounding terms."""
    results = verify(
        network,
        loader(task.validation, 256),
        task.threat,
        encoding=task.encoding,
        rounding=False,
    )
    return summarise(result for batch in results for result in batch)


def _epoch_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _weights(network: SpikingNetwork) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _checkpoint(
    network: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: Mapping[str, Tensor],
    identity: dict[str, Any],
) -> Checkpoint:
    slots, groups = pack_optimizer(optimizer)
    tensors = {f"network.{name}": value for name, value in _weights(network).items()}
    tensors |= {f"best.{name}": value for name, value in best.items()} | slots
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    facts = {
        "epoch": progress.epoch,
        "seconds": progress.seconds,
        "best": progress.best,
        "rows": progress.rows,
        "groups": groups,
        "identity": identity,
    }
    return Checkpoint(tensors, facts)


def _resumed(
    network: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    identity: dict[str, Any],
    monitor: Monitor,
) -> tuple[Progress, dict[str, Tensor]]:
    """Put the folder's last checkpoint into place; a fresh start where it has none."""
    checkpoint, refused = load_latest(folder)
    for message in refused:
        monitor.warn(f"{message}; going on from the checkpoint before it")
    if checkpoint is None:
        return Progress(), _weights(network)
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
    return Progress(facts["epoch"], facts["seconds"], best, facts["rows"]), _part(tensors, "best.")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
