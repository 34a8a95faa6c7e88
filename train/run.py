"""A run from config to trained model, in a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import torch

from certsnn.data import LabelledDataset, load, loader
from certsnn.errors import CheckpointError
from certsnn.files import write_text
from certsnn.machine import computed_on
from certsnn.models.pretrained import CONFIG, MODEL, Model, build_network, save_model
from certsnn.processes import Alone, Processes
from certsnn.train.config import RunConfig
from certsnn.train.curves import plot_curves
from certsnn.train.loop import Task, train
from certsnn.train.monitor import Monitor
from certsnn.train.state import Progress

INITIAL_BATCH = 256
"""Samples that a data-dependent initialisation sees."""


@final
@dataclass(frozen=True)
class Run:
    """A finished run."""

    model: Model
    progress: Progress


def run(
    config: RunConfig,
    text: str,
    folder: Path,
    device: torch.device,
    monitor: Monitor | None = None,
    processes: Processes | None = None,
) -> Run:
    """Train as the config says, or go on from the folder's last checkpoint of this config.

    Writes config.yaml, metrics.jsonl, curves.png, checkpoints and, at the end, model.safetensors.

    Args:
        config: of the training.
        text: the config as YAML; kept in the folder and in the model's file.
        folder: the run folder.
        device: where to train.
        monitor: is told of the progress.
        processes: that train together (see `certsnn.train.loop.train`); one alone if None.

    Raises:
        UserError: for missing data, an unknown name, or a folder with another run's checkpoints.
    """
    processes = Alone() if processes is None else processes
    data = load(config.data.name, "train", config.data.root, config.data.download, config.data.frames)
    task = task_of(config, data)
    torch.manual_seed(config.seed)
    network = build_network(config, data.shape, data.classes)
    config.training.initialisation(network, nominal(task, config))
    processes.once(partial(_claim, folder, text))
    progress = train(
        network.to(device),
        task,
        config.training,
        folder,
        seed=config.seed,
        identity={"config": text},
        monitor=monitor,
        processes=processes,
    )
    spent = {"epochs": progress.epoch, "training_seconds": round(progress.seconds, 1)}
    facts = spent | computed_on(device)  # of the process that ends it, where it was stopped in between
    model = Model(network.eval(), config, text, data.shape, data.classes, facts)
    processes.once(partial(_finish, folder, model, progress))
    return Run(model, progress)


def task_of(config: RunConfig, data: LabelledDataset) -> Task:
    """The data split into training and validation, with the config's encoding and threat."""
    training, validation = data.split(config.data.validation, config.seed)
    return Task(training, validation, config.threat, config.data.encoding)


def nominal(task: Task, config: RunConfig) -> torch.Tensor:
    """A batch of the network's nominal inputs, for a data-dependent initialisation."""
    batch = next(iter(loader(task.train, INITIAL_BATCH, shuffle_seed=config.seed)))
    samples = task.samples(batch, 0)
    return task.threat.bind(samples.x, samples.positions)[0]


def _finish(folder: Path, model: Model, progress: Progress) -> None:
    """Write curves.png and model.safetensors."""
    plot_curves(progress.rows, folder / "curves.png")
    save_model(folder / MODEL, model)


def check_folder(folder: Path, text: str, option: str = "--run") -> None:
    """Raise CheckpointError if the folder is that of a run of another config.

    Args:
        folder: a run folder, which need not exist.
        text: the config as YAML.
        option: of the command line, that names another folder.
    """
    path = folder / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise CheckpointError(
            f"{folder} holds a run with another config; name another folder with {option}, or remove this one"
        )


def _claim(folder: Path, text: str) -> None:
    """Put the config into the run folder, unless another run has put its own there."""
    check_folder(folder, text)
    write_text(folder / CONFIG, text)
