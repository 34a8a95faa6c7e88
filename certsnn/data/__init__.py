"""Data sets by name: `load("mnist", "test", root="../shared/data")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

from certsnn.data.base import Batch, ImageDataset, loader
from certsnn.data.digits import digits
from certsnn.data.vision import cifar10, fashion_mnist, mnist
from certsnn.errors import DataNotFound

__all__ = ["DATASETS", "DEFAULT_ROOT", "Batch", "ImageDataset", "Split", "load", "loader"]

Split = Literal["train", "test"]

DEFAULT_ROOT = Path("data")
"""Where data sets are looked for, and downloaded to, when no root is named."""

DATASETS: Mapping[str, Callable[[str, Path, bool], ImageDataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}
"""Each data set's loading function: (split, root, download) to the samples."""


def load(
    name: str,
    split: Split,
    root: str | PathLike[str] | None = None,
    download: bool = False,
) -> ImageDataset:
    """The training or test set of this name.

    Args:
        name: one of `DATASETS`.
        split: "train" or "test".
        root: the folder that torchvision's data sets are in; `DEFAULT_ROOT` when None.
        download: fetch what is missing into `root`; nothing is ever downloaded otherwise.

    Raises:
        DataNotFound: no data set has this name, or its files are missing or damaged.
        ValueError: the split is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    if name not in DATASETS:
        near = get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataNotFound(f"no data set is called {name!r}{hint} Known: {', '.join(DATASETS)}.")
    return DATASETS[name](split, DEFAULT_ROOT if root is None else Path(root), download)
