"""The training loop: epochs, validation, checkpoints; resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.batches import WHOLE
from certsnn.bounds.options import BoundOptions
from certsnn.data import Batch, LabelledDataset, loader
from certsnn.encoding import Encoding
from certsnn.errors import CheckpointError
from certsnn.evaluation.verification import Summary, summarise, verify
from certsnn.files import write_text
from certsnn.inputsets import Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.processes import Alone, Processes, Share, mean_figures
from certsnn.results.schema import read_lines, written
from certsnn.train.averaging import Average, copied
from certsnn.train.checkpoint import (
    Checkpoint,
    load_latest,
    pack_optimizer,
    save,
    unpack_optimizer,
)
from certsnn.train.config import TrainingConfig
from certsnn.train.objectives.base import Samples
from certsnn.train.schedules import Moment

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

    def samples(self, batch: Batch, draw: int) -> Samples:
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
    processes: Processes | None = None,
) -> Progress:
    """Train, and leave the best weights (by the objective's score on validation) in the network.

    The folder gets a checkpoint after every epoch; a run that was killed resumes from the last one and ends
    with the same weights as one that was not.

    Several processes share every batch and the validation, and end with the same weights as one process, but
    for rounding: sums are taken in another order. Encodings and threats draw the same noise, for it is keyed
    on the samples; dropout draws other masks than one process would. Only the first process writes files.

    Args:
        network: on the device to train on, in float32.
        task: the data and the threat.
        settings: the objective, the schedule and the rest of the config's training part.
        folder: where the checkpoints and metrics.jsonl go.
        seed: of the order of the samples and the noise; torch's own generator must be seeded by the caller.
        identity: what a checkpoint must agree with to be resumed (the config).
        monitor: is told how it goes.
        processes: that train together; one alone if None.

    Raises:
        UserError: if the processes do not see the same folder, or their weights differ.
        CheckpointError: if the folder's checkpoints are another run's, or none of them is whole.
        FloatingPointError: if the loss or a weight is not a finite number.
    """
    monitor = Silent() if monitor is None else monitor
    processes = Alone() if processes is None else processes
    device = next(network.parameters()).device
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate.peak)
    progress, best, average = _resumed(network, optimizer, folder, dict(identity or {}), monitor)
    _agree(processes, network, progress)
    batches = -(-len(task.train) // settings.batch_size)
    monitor.started(settings.epochs, batches, progress.epoch)
    network.train()
    network.training_products = settings.products
    while progress.epoch < settings.epochs:
        begun = time.perf_counter()
        epoch = progress.epoch
        threat = task.threat.redrawn(epoch + 1)
        sums: dict[str, Tensor] = {}
        processes.diverge(epoch_seed(seed, epoch))  # dropout: not the same mask in every share
        order = loader(task.train, settings.batch_size, shuffle_seed=epoch_seed(seed, epoch))
        for position, batch in enumerate(order):
            now = Moment(epoch + position / batches, settings.epochs)
            share = processes.share(len(batch[1]))
            x, y, index = _held(batch, share, task.train.domain)
            if settings.augmentation is not None:
                x = settings.augmentation(x, index, epoch_seed(seed, epoch))
            held = task.samples((x, y, index), epoch + 1)
            samples = Samples(*(part.to(device) for part in held))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(now)
            network.batch = processes.batch(share)
            terms = settings.objective.terms(network, samples, threat, now)
            optimizer.zero_grad()
            (terms.loss * share.weight).backward()
            processes.sum_gradients(trained)
            nn.utils.clip_grad_norm_(trained, settings.gradient_norm)
            optimizer.step()
            average.update(network.state_dict(), settings.averaging, now)
            for name, value in terms.figures.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * share.samples
            monitor.batch_done()
        means = mean_figures(processes, list(sums.values()), len(task.train))
        figures = dict(zip(sums, means, strict=True))
        # Neurons that never fire hide weights that are not numbers from the loss.
        if not (math.isfinite(figures["loss"]) and all(p.isfinite().all() for p in trained)):
            raise FloatingPointError(
                f"epoch {epoch + 1} ended with a loss of {figures['loss']:g} or weights that are no numbers; "
                "lower training.learning_rate.peak"
            )
        with _holding(network, average):
            found = validate(network, task, processes)
        progress.epoch += 1
        progress.seconds += time.perf_counter() - begun
        settled = progress.epoch >= min(settings.objective.settled(settings.epochs), settings.epochs)
        score = settings.objective.score(found)
        # On a tie the later epoch wins: it has trained longer, at a lower rate.
        if settled and (progress.best is None or score <= progress.best):
            progress.best, best = score, copied(average.tensors)
        row = {"epoch": progress.epoch, "seconds": round(progress.seconds, 2)}
        row |= {f"train_{name}": value for name, value in figures.items()}
        row |= {"clean_error": found.clean_error, "verified_error": found.verified_error}
        progress.rows.append(row)
        _agree(processes, network, progress)
        checkpoint = _checkpoint(network, optimizer, progress, best, average, dict(identity or {}))
        processes.once(partial(_write, folder, checkpoint, progress))
        monitor.epoch_done(row)
    network.load_state_dict(best)
    network.training_products, network.batch = None, WHOLE
    return progress


def _held(batch: Batch, share: Share, domain: Domain) -> Batch:
    """The samples of a batch that a process computes; spikes have the time before the samples."""
    x, y, index = batch
    held = share.held
    return x[held] if domain == "image" else x[:, held], y[held], index[held]


@contextmanager
def _holding(network: SpikingNetwork, average: Average) -> Iterator[None]:
    """The network with the averaged weights while the block runs, then with its own."""
    own = copied(network.state_dict())
    network.load_state_dict(average.tensors)
    try:
        yield
    finally:
        network.load_state_dict(own)


def validate(network: SpikingNetwork, task: Task, processes: Processes | None = None) -> Summary:
    """Clean and verified error on the validation split, at the full threat, without rounding terms.

    Several processes verify a share each; the errors are those of all samples in every process.
    """
    processes = Alone() if processes is None else processes
    share = processes.share(len(task.validation))
    data = task.validation.subset(range(share.start, share.stop)) if share.samples else None
    batches = () if data is None else loader(data, 256)
    options = BoundOptions(rounding=False)
    found = verify(network, batches, task.threat, encoding=task.encoding, options=options)
    results = [result for batch in found for result in batch]
    for text in processes.others(written(results)):
        results += read_lines(text)
    return summarise(results)


def _write(folder: Path, checkpoint: Checkpoint, progress: Progress) -> None:
    save(folder, checkpoint)
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in progress.rows))


def _agree(processes: Processes, network: SpikingNetwork, progress: Progress) -> None:
    """Raise UserError where processes stand elsewhere, or hold other weights."""
    if processes.count == 1:
        return
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    processes.agree(
        json.dumps([progress.epoch, progress.best, digest.hexdigest()]),
        "their weights differ. All of them must see the same run folder, and compute on devices of the same "
        "kind with the same version of torch",
    )


def epoch_seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _checkpoint(
    network: SpikingNetwork,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: Mapping[str, Tensor],
    average: Average,
    identity: dict[str, Any],
) -> Checkpoint:
    slots, groups = pack_optimizer(optimizer)
    tensors = {f"network.{name}": value for name, value in copied(network.state_dict()).items()}
    tensors |= {f"best.{name}": value for name, value in best.items()} | slots
    tensors |= {f"average.{name}": value for name, value in average.tensors.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    facts = {
        "epoch": progress.epoch,
        "seconds": progress.seconds,
        "best": progress.best,
        "rows": progress.rows,
        "averaged": average.updates,
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
) -> tuple[Progress, dict[str, Tensor], Average]:
    """Put the folder's last checkpoint into place; a fresh start where it has none."""
    checkpoint, refused = load_latest(folder)
    for message in refused:
        monitor.warn(f"{message}; going on from the checkpoint before it")
    if checkpoint is None:
        return Progress(), copied(network.state_dict()), Average(network.state_dict())
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
    return progress, _part(tensors, "best."), average


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
