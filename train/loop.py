"""The training loop: epochs, validation, checkpoints; resumable at any moment."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from certsnn.batches import WHOLE
from certsnn.bounds.options import BoundOptions
from certsnn.data import Batch, LabelledDataset, loader
from certsnn.encoding import Encoding
from certsnn.evaluation.verification import Summary, summarise, verify
from certsnn.inputsets import Threat
from certsnn.inputsets.base import Domain
from certsnn.networks import SpikingNetwork
from certsnn.processes import Alone, Processes, Share, mean_figures
from certsnn.results.schema import read_lines, written
from certsnn.train.config import TrainingConfig
from certsnn.train.monitor import Monitor, Row, Silent
from certsnn.train.objectives.base import Samples
from certsnn.train.schedules import Moment
from certsnn.train.state import Progress, State, resumed, write


@final
@dataclass(frozen=True)
class Task:
    """A training's data, their encoding into the network's input, and the threat."""

    train: LabelledDataset
    validation: LabelledDataset
    threat: Threat
    encoding: Encoding | None = None

    def samples(self, batch: Batch, draw: int) -> Samples:
        """A batch as the threat takes it, with the noise of this draw."""
        x, y, index = batch
        encoded = x if self.encoding is None else self.encoding.redrawn(draw)(x, index)
        return Samples(encoded, y, index)


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

    Several processes share every batch and the validation. They end with the weights of one process, but for
    the order of sums and the masks of dropout. Only the first process writes files.

    Args:
        network: on the device to train on, in float32.
        task: the data and the threat.
        settings: the objective, the schedule and the rest of the config's training part.
        folder: where the checkpoints and metrics.jsonl go.
        seed: of the order of the samples and the noise; torch's own generator must be seeded by the caller.
        identity: must be that of a checkpoint for it to be resumed (the config).
        monitor: is told of the progress.
        processes: that train together; one alone if None.

    Raises:
        UserError: if the processes do not see the same folder, or their weights differ.
        CheckpointError: if the folder's checkpoints are another run's, or none of them is whole.
        FloatingPointError: if the loss or a weight is not a finite number.
    """
    monitor, processes = monitor or Silent(), processes or Alone()
    optimizer = torch.optim.Adam(_trained(network), lr=settings.learning_rate.peak)
    state = resumed(network, optimizer, folder, dict(identity or {}), monitor)
    training = _Training(state, task, settings, seed, monitor, processes)
    state.agree(processes)
    monitor.started(settings.epochs, training.batches, state.progress.epoch)
    network.train()
    network.training_products = settings.products
    while state.progress.epoch < settings.epochs:
        row = training.epoch()
        state.agree(processes)
        processes.once(partial(write, folder, state.checkpoint()))
        monitor.epoch_done(row)
    network.load_state_dict(state.best)
    network.training_products, network.batch = None, WHOLE
    return state.progress


@final
@dataclass(frozen=True)
class _Training:
    """One training; the arguments of `train`."""

    state: State
    task: Task
    settings: TrainingConfig
    seed: int
    monitor: Monitor
    processes: Processes

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.task.train) // self.settings.batch_size)

    def epoch(self) -> Row:
        """Train one epoch, validate, and keep the best weights; the row of figures.

        Raises:
            FloatingPointError: if the loss or a weight is not a finite number.
        """
        begun = time.perf_counter()
        progress, objective, epochs = self.state.progress, self.settings.objective, self.settings.epochs
        figures = self._pass()
        # Neurons that never fire hide weights that are not numbers from the loss.
        weights = _trained(self.state.network)
        if not (math.isfinite(figures["loss"]) and all(weight.isfinite().all() for weight in weights)):
            raise FloatingPointError(
                f"epoch {progress.epoch + 1} ended with a loss of {figures['loss']:g} or weights that are no "
                "numbers; lower training.learning_rate.peak"
            )
        with self.state.averaged():
            found = validate(self.state.network, self.task, self.processes)
        progress.epoch += 1
        progress.seconds += time.perf_counter() - begun
        if progress.epoch >= min(objective.settled(epochs), epochs):
            self.state.consider(objective.score(found))
        row = {"epoch": progress.epoch, "seconds": round(progress.seconds, 2)}
        row |= {f"train_{name}": value for name, value in figures.items()}
        row |= {"clean_error": found.clean_error, "verified_error": found.verified_error}
        progress.rows.append(row)
        return row

    def _pass(self) -> dict[str, float]:
        """Take a step on every batch; the means of the objective's figures over all samples."""
        epoch, task = self.state.progress.epoch, self.task
        noise = epoch_seed(self.seed, epoch)
        threat = task.threat.redrawn(epoch + 1)
        sums: dict[str, Tensor] = {}
        self.processes.diverge(noise)  # dropout: not the same mask in every share
        order = loader(task.train, self.settings.batch_size, shuffle_seed=noise)
        for position, batch in enumerate(order):
            now = Moment(epoch + position / self.batches, self.settings.epochs)
            share = self.processes.share(len(batch[1]))
            x, y, index = _held(batch, share, task.train.domain)
            if self.settings.augmentation is not None:
                x = self.settings.augmentation(x, index, noise)
            figures = self._step(task.samples((x, y, index), epoch + 1), threat, now, share)
            for name, value in figures.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * share.samples
            self.monitor.batch_done()
        means = mean_figures(self.processes, list(sums.values()), len(task.train))
        return dict(zip(sums, means, strict=True))

    def _step(self, samples: Samples, threat: Threat, now: Moment, share: Share) -> dict[str, Tensor]:
        """One step of the optimiser on this process's share of a batch; the objective's figures."""
        network, optimizer, settings = self.state.network, self.state.optimizer, self.settings
        trained = _trained(network)
        samples = Samples(*(part.to(trained[0].device) for part in samples))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(now)
        network.batch = self.processes.batch(share)
        terms = settings.objective.terms(network, samples, threat, now)
        optimizer.zero_grad()
        (terms.loss * share.weight).backward()
        self.processes.sum_gradients(trained)
        nn.utils.clip_grad_norm_(trained, settings.gradient_norm)
        optimizer.step()
        self.state.average.update(network.state_dict(), settings.averaging, now)
        return terms.figures


def _trained(network: SpikingNetwork) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [p for p in network.parameters() if p.requires_grad]


def _held(batch: Batch, share: Share, domain: Domain) -> Batch:
    """The samples of a batch that a process computes; spikes have the time before the samples."""
    x, y, index = batch
    held = share.held
    return x[held] if domain == "image" else x[:, held], y[held], index[held]


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


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of all noise of one epoch, in [0, 2**63)."""
    return (seed * 1_000_003 + epoch) % 2**63
