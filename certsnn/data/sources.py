"""Sources of data sets: the kind of their samples, and the way to load them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from certsnn.data.base import FrameDataset, ImageDataset, LabelledDataset, SpikeDataset
from certsnn.data.events.cache import Trains, cached
from certsnn.data.events.frames import Frames
from certsnn.data.events.recordings import Recordings
from certsnn.data.events.saccades import Saccades
from certsnn.inputsets.base import Domain


class Source(ABC):
    """A data set, before anything of it is read."""

    @property
    @abstractmethod
    def domain(self) -> Domain:
        """Whether its samples are images, spikes or frames."""

    @abstractmethod
    def steps(self, frames: Frames) -> int | None:
        """The number of steps of a sample; None for images."""

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
class Rows(Source):
    """Images as sequences of their rows, from the top, one row a step; ``read`` as in `Pictures`.

    A row has the values of all channels. ``height`` of the images: the number of steps.
    """

    read: Callable[[str, Path, bool], ImageDataset]
    height: int

    @property
    def domain(self) -> Domain:
        return "frames"

    def steps(self, frames: Frames) -> int | None:
        return self.height

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> FrameDataset:
        data = self.read(split, root, download)
        rows = data.images.transpose(1, 2).flatten(2).contiguous()
        return FrameDataset(f"{data.name} row by row", rows, data.labels, data.classes, data.whole)


class EventSource(Source, ABC):
    """Spike trains made of events."""

    @property
    @final
    def domain(self) -> Domain:
        return "spikes"

    @final
    def steps(self, frames: Frames) -> int | None:
        return frames.steps


@final
@dataclass(frozen=True)
class Recorded(EventSource):
    """Recordings of an event camera; ``read`` takes (split, root, download)."""

    read: Callable[[str, Path, bool], Recordings]

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> SpikeDataset:
        return self.read(split, root, download).spikes(frames)


@final
@dataclass(frozen=True)
class Counted(Source):
    """The same recordings as frames of counts: how many events each pixel had."""

    read: Callable[[str, Path, bool], Recordings]

    @property
    def domain(self) -> Domain:
        return "frames"

    def steps(self, frames: Frames) -> int | None:
        return frames.steps

    def load(self, split: str, root: Path, download: bool, frames: Frames) -> FrameDataset:
        return self.read(split, root, download).counts(frames)


@final
@dataclass(frozen=True)
class Simulated(EventSource):
    """Images seen by a simulated event camera; kept on disk, as it takes minutes for large data sets."""

    read: Callable[[str, Path, bool], ImageDataset]
    camera: Saccades = field(default_factory=Saccades)

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
