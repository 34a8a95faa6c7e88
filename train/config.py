"""The config of a run; every key is also a flag of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, final

import torch

from certsnn.data import Frames, source
from certsnn.encoding import Bernoulli, Encoding, Latency
from certsnn.factory import Factory
from certsnn.inputsets import CoupledBernoulli, LinfBall, Threat
from certsnn.inputsets.base import Domain
from certsnn.neurons import IF, Neuron
from certsnn.readouts import ReadoutName
from certsnn.settings import check_count
from certsnn.train.augmentation import Augmentation
from certsnn.train.averaging import Averaging, Latest
from certsnn.train.initialisation import Initialisation, TorchDefault
from certsnn.train.objectives import Certified, Objective
from certsnn.train.schedules import LearningRate

ROUNDING = Factory(IF, {"threshold": 1.0, "initial": 0.5})
"""A spike count that is the charge rounded to the nearest: half a threshold is there from the start."""


@final
@dataclass(frozen=True)
class DataConfig:
    """The data set.

    Args:
        name: digits, mnist, fashion-mnist or cifar10; digits-rows, mnist-rows or fashion-mnist-rows (frames,
            a row of pixels a step); digits-saccades, mnist-saccades or fashion-mnist-saccades (simulated
            events); nmnist, dvs-gesture or cifar10-dvs (recorded events); nmnist-counts, dvs-gesture-counts
            or cifar10-dvs-counts (frames of their numbers); or folder, images of one's own.
        root: the folder with torchvision's and tonic's data sets; for ``folder`` that with train/CLASS/*.png
            and test/CLASS/*.png, or with CLASS/*.png, of which a fifth is then the test set.
        download: fetch a missing data set into root.
        validation: the share of the training set that chooses the best checkpoint, in (0, 1).
        encoding: turns images into spikes, for threats that take spikes; none for the others.
        frames: how recordings of events become spikes; images have none.
    """

    name: str = "digits"
    root: str | None = None
    download: bool = False
    validation: float = 0.1
    encoding: Encoding | None = None
    frames: Frames = field(default_factory=Frames)

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must lie in (0, 1), got {self.validation}")

    @property
    def domain(self) -> Domain:
        """The threat's input: the data set's own samples, or spikes where an encoding makes them."""
        return source(self.name).domain if self.encoding is None else "spikes"

    @property
    def steps(self) -> int | None:
        """The steps of the data set's own sequences; None for images."""
        return source(self.name).steps(self.frames)


@final
@dataclass(frozen=True)
class NetworkConfig:
    """The network.

    Args:
        architecture: a name in certsnn.architectures.
        neuron: the neuron of every layer, LIF or IF with its arguments.
        steps: simulation steps T.
        readout: rate (spike counts of a last layer of neurons), or of a last affine layer the membrane (its
            mean), the sum, the last step or the maximum over time.
        norm: batch norm before every hidden layer of neurons, or none.
    """

    architecture: str = "digits-fc"
    neuron: Callable[[], Neuron] = field(default_factory=lambda: ROUNDING)
    steps: int = 2
    readout: ReadoutName = "membrane"
    norm: Literal["none", "batch"] = "batch"

    def __post_init__(self) -> None:
        check_count("steps", self.steps)


@final
@dataclass(frozen=True)
class TrainingConfig:
    """The training of the network.

    Args:
        objective: Natural, Certified or Adversarial.
        initialisation: TorchDefault, ConstantWidth or Calibrated.
        epochs: passes over the training set.
        batch_size: samples in a batch.
        learning_rate: Adam's, over the epochs.
        gradient_norm: gradients are clipped to this norm.
        averaging: of the weights that are validated and kept: Latest (none), EMA or SWA.
        precision: of the products of clean and adversarial training passes; all else is always float32.
        augmentation: random changes of the training samples, anew in every epoch: Translations, or none.
    """

    objective: Objective = field(default_factory=Certified)
    initialisation: Initialisation = field(default_factory=TorchDefault)
    epochs: int = 30
    batch_size: int = 128
    learning_rate: LearningRate = field(default_factory=LearningRate)
    gradient_norm: float = 8.0
    averaging: Averaging = field(default_factory=Latest)
    precision: Literal["float32", "bfloat16"] = "float32"
    augmentation: Augmentation | None = None

    @property
    def products(self) -> torch.dtype | None:
        """The dtype of a network's ``training_products``."""
        return torch.bfloat16 if self.precision == "bfloat16" else None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_count(name, getattr(self, name))
        if not self.gradient_norm > 0:
            raise ValueError(f"gradient_norm must be > 0, got {self.gradient_norm}")


@final
@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Args:
        data: the data set.
        network: the network.
        threat: the changes that the adversary may make.
        training: the training of the network.
        seed: of the weights, the order of the samples and all noise of training.
    """

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    threat: Threat = field(default_factory=lambda: LinfBall(0.05))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2**32), got {self.seed}")
        objective = self.training.objective
        if isinstance(objective, Certified) and (objective.steps or 1) > self.steps:
            raise ValueError(
                f"training.objective.steps must be at most the network's {self.steps} steps, got "
                f"{objective.steps}"
            )

    @property
    def steps(self) -> int:
        """T: that of whatever makes the spikes, or the network's own for images."""
        for part in (self.threat, self.data.encoding):
            if isinstance(part, (CoupledBernoulli, Bernoulli, Latency)):
                return part.steps
        return self.data.steps or self.network.steps
