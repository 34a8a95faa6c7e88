"""What a name of a data set stands for: what its samples are, and how they are loaded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from certsnn.data.base import ImageDataset, LabelledDataset, SpikeDataset
from certsnn.data.events.cache import Trains, cached
from certsnn.data.events.frames import Frames
from certsnn.data.events.saccades import Saccades
from certsnn.inputsets.base import Domain


class Source(ABC):
    """A data set, before anything of it is read."""

    @property
    @abstractmethod
    def domain(self) -> Domain:
        """Whether its samples are images or spikes."""

    @abstractmethod
    def steps(self, frames: Frames) -> int | None:
        """How many steps a sample has; None for images."""

    @abstractmethod
    def load(self, split: str, root: Path, download: bool, frames: Frames) -> LabelledDataset:
        """The training or test set; raises DataNotFound."""


@final
@dataclass(frozen=True)
class Pictures(Source):
    """Images; ``read`` takes (split, root, download)."""

    read: Callable[[str, Path, bool], ImageDataset]

    @property
    def domain(self) -> Domain:
        return "image"

    def steps(self, frames: Frames) -> int | None:
        return None

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> ImageDataset:
        return self.read(split, root, download)


@final
@dataclass(frozen=True)
class Recorded(Source):
    """Recordings of an event camera; ``read`` takes (split, root, download, frames)."""

    read: Callable[[str, Path, bool, Frames], SpikeDataset]

    @property
    def domain(self) -> Domain:
        return "spikes"

    def steps(self, frames: Frames) -> int | None:
        return frames.steps

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> SpikeDataset:
        return self.read(split, root, download, frames)


@final
@dataclass(frozen=True)
class Simulated(Source):
    """Images seen by a simulated event camera; kept on disk, as it takes minutes for large data sets."""

    read: Callable[[str, Path, bool], ImageDataset]
    camera: Saccades = field(default_factory=Saccades)

    @property
    def domain(self) -> Domain:
        return "spikes"

    def steps(self, frames: Frames) -> int | None:
        return frames.steps

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> SpikeDataset:
        data = self.read(split, root, download)
        what = {
            "data": "saccades",
            "split": split,
            "frames": repr(frames),
            "camera": repr(self.camera),
            "images": hashlib.sha256(data.images.numpy().tobytes()).hexdigest(),
        }
        spikes, _ = cached(
            what, lambda: Trains(self.camera.frames(data.images, data.index, frames), data.labels)
        )
        name = f"{data.name} in saccades, {frames.describe()}"
        return SpikeDataset(name, spikes, data.labels, data.classes, data.whole)
