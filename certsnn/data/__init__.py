"""Data sets by name: `load("mnist", "test", root="../shared/data")`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

from certsnn.data.base import Batch, FrameDataset, ImageDataset, LabelledDataset, SpikeDataset, loader
from certsnn.data.digits import digits
from certsnn.data.events import Frames, Saccades
from certsnn.data.events.nmnist import nmnist
from certsnn.data.events.tonic import cifar10_dvs, dvs_gesture
from certsnn.data.folders import class_folders
from certsnn.data.sources import Counted, Pictures, Recorded, Rows, Simulated, Source
from certsnn.data.vision import cifar10, fashion_mnist, mnist
from certsnn.errors import DataNotFound

__all__ = [
    "DATASETS",
    "DEFAULT_ROOT",
    "Batch",
    "FrameDataset",
    "Frames",
    "ImageDataset",
    "LabelledDataset",
    "Saccades",
    "SpikeDataset",
    "Split",
    "load",
    "loader",
    "source",
]

Split = Literal["train", "test"]

DEFAULT_ROOT = Path("data")
"""Where data sets are looked for, and downloaded to, when no root is named."""

DATASETS: Mapping[str, Source] = {
    "digits": Pictures(digits),
    "mnist": Pictures(mnist),
    "fashion-mnist": Pictures(fashion_mnist),
    "cifar10": Pictures(cifar10),
    "folder": Pictures(class_folders),
    "digits-rows": Rows(digits, 8),
    "mnist-rows": Rows(mnist, 28),
    "fashion-mnist-rows": Rows(fashion_mnist, 28),
    "digits-saccades": Simulated(digits),
    "mnist-saccades": Simulated(mnist),
    "fashion-mnist-saccades": Simulated(fashion_mnist),
    "nmnist": Recorded(nmnist),
    "dvs-gesture": Recorded(dvs_gesture),
    "cifar10-dvs": Recorded(cifar10_dvs),
    "nmnist-counts": Counted(nmnist),
    "dvs-gesture-counts": Counted(dvs_gesture),
    "cifar10-dvs-counts": Counted(cifar10_dvs),
}
"""Each data set's source."""


def load(
    name: str,
    split: Split,
    root: str | PathLike[str] | None = None,
    download: bool = False,
    frames: Frames | None = None,
) -> LabelledDataset:
    """The training or test set of this name.

    Args:
        name: one of `DATASETS`.
        split: "train" or "test".
        root: the folder that torchvision's and tonic's data sets are in; `DEFAULT_ROOT` when None.
        download: fetch missing files into `root`; nothing is ever downloaded otherwise.
        frames: how events become spike trains; images need none. None is `Frames()`.

    Raises:
        DataNotFound: no data set has this name, or its files are missing or damaged.
        ValueError: the split is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    place = DEFAULT_ROOT if root is None else Path(root)
    return source(name).load(split, place, download, Frames() if frames is None else frames)


def source(name: str) -> Source:
    """The source of a data set's name; raises DataNotFound if no data set is called this."""
    if name not in DATASETS:
        near = get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataNotFound(f"no data set is called {name!r}{hint} Known: {', '.join(DATASETS)}.")
    return DATASETS[name]
