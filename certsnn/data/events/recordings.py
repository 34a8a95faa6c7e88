"""Folders of recordings, one file each, as a data set of frames.

Files are listed in the order of their names, so that a sample's position does not depend on the file system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from certsnn.data.base import FrameDataset, SpikeDataset
from certsnn.data.events.cache import Trains, cached
from certsnn.data.events.frames import Events, Frames
from certsnn.errors import DataNotFound

_Make = Callable[[Events, int, int], Tensor]
"""Frames of a recording, from its events and the sensor's size."""


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

    def spikes(self, frames: Frames) -> SpikeDataset:
        """All recordings as binary frames, from the cache where they are in it.

        Raises:
            DataNotFound: a recording is damaged.
        """
        found = self._cached(frames, {}, torch.bool, frames.of)
        name, whole = self._title(frames.describe())
        return SpikeDataset(name, *found, self.classes, whole)

    def counts(self, frames: Frames) -> FrameDataset:
        """The same with the number of events of each pixel and window.

        Raises:
            DataNotFound: a recording is damaged.
        """
        found = self._cached(frames, {"values": "counts"}, torch.uint8, frames.counts)
        name, whole = self._title(f"counts in {frames.describe()}")
        return FrameDataset(name, *found, self.classes, whole)

    def _cached(self, frames: Frames, values: Mapping[str, str], dtype: torch.dtype, make: _Make) -> Trains:
        """The frames of all files, of such values; raises DataNotFound for a damaged file."""
        what = {"data": self.name, "split": self.split, "frames": repr(frames), "files": self._digest()}
        empty = (len(self.files), *frames.shape(*self.sensor))
        return cached({**what, **values}, lambda: self._trains(torch.empty(empty, dtype=dtype), make))

    def _title(self, frames: str) -> tuple[str, int | None]:
        """The data set's name, and the number of published recordings where these are only some of them."""
        partial = len(self.labels) < self.whole
        size = f" ({len(self.labels):,} of {self.whole:,} recordings)" if partial else ""
        return f"{self.name} {self.split}{size}, {frames}", self.whole if partial else None

    def _trains(self, found: Tensor, make: _Make) -> Trains:
        """The frames of all files, put into ``found``; raises DataNotFound for a damaged one."""
        for place, file in enumerate(self.files):
            try:
                found[place] = make(self.read(file), *self.sensor)
            except (OSError, ValueError) as error:
                raise DataNotFound(
                    f"{self.name} ({self.split}): {file} is damaged: {error}. Restore the file, or remove it"
                ) from error
        return Trains(found, torch.tensor(self.labels, dtype=torch.int64))

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
