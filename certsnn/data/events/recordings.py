"""Folders of recordings, one file each, as a data set of frames.

Files are listed in the order of their names, so that a sample's position does not depend on the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from certsnn.data.base import SpikeDataset
from certsnn.data.events.cache import Trains, cached
from certsnn.data.events.frames import Events, Frames
from certsnn.errors import DataNotFound


@final
@dataclass(frozen=True)
class Recordings:
    """The recordings of a split.

    Args:
        name: of the data set.
        split: "train" or "test".
        files: the recordings.
        labels: the class of each.
        read: a file's events; raises OSError or ValueError where it is damaged.
        sensor: the camera's (height, width).
        classes: the number of classes.
        whole: the number of recordings in the published split.
    """

    name: str
    split: str
    files: Sequence[Path]
    labels: Sequence[int]
    read: Callable[[Path], Events]
    sensor: tuple[int, int]
    classes: int
    whole: int

    def dataset(self, frames: Frames) -> SpikeDataset:
        """All recordings as frames, from the cache where they are in it.

        Raises:
            DataNotFound: a recording is damaged.
        """
        what = {"data": self.name, "split": self.split, "frames": repr(frames), "files": self._digest()}
        spikes, labels = cached(what, lambda: self._trains(frames))
        partial = len(labels) < self.whole
        size = f" ({len(labels):,} of {self.whole:,} recordings)" if partial else ""
        name = f"{self.name} {self.split}{size}, {frames.describe()}"
        return SpikeDataset(name, spikes, labels, self.classes, self.whole if partial else None)

    def _trains(self, frames: Frames) -> Trains:
        """The frames of all files; raises DataNotFound for a damaged one."""
        spikes = torch.empty((len(self.files), *frames.shape(*self.sensor)), dtype=torch.bool)
        for place, file in enumerate(self.files):
            try:
                spikes[place] = frames.of(self.read(file), *self.sensor)
            except (OSError, ValueError) as error:
                raise DataNotFound(
                    f"{self.name} ({self.split}): {file} is damaged: {error}. Restore the file, or remove it"
                ) from error
        return Trains(spikes, torch.tensor(self.labels, dtype=torch.int64))

    def _digest(self) -> str:
        """A fingerprint of the files by name, size and time of change."""
        facts = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            stat = file.stat()
            facts.update(f"{file.resolve()}|{label}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
        return facts.hexdigest()


def listed(name: str, split: str, folder: Path, pattern: str, wanted: str) -> list[Path]:
    """The files of a pattern in a folder, by name.

    Raises:
        DataNotFound: there are none; ``wanted`` says how they would have to lie.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise DataNotFound(
            f"{name} ({split}): there are no recordings in {folder.resolve()}, which must hold {wanted}. "
            "Either name the folder that holds it with --data.root PATH, or fetch it with --data.download "
            "true"
        )
    return files
