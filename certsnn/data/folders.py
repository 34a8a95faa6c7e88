"""Images of one's own: a folder for each class, as torchvision's `ImageFolder` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from certsnn.data.base import ImageDataset
from certsnn.errors import DataNotFound

SPLITS = ("train", "test")
TEST_SHARE, SPLIT_SEED = 0.2, 0
"""The test set of a folder that names none: this share of every class, drawn once."""
GREY, COLOUR = ("1", "L"), ("RGB", "RGBA", "P")
"""Modes of Pillow with 8 bits a channel."""


def class_folders(split: str, root: Path, download: bool) -> ImageDataset:
    """The images of ``root``/train/CLASS and ``root``/test/CLASS, or a part of those of ``root``/CLASS.

    Classes are numbered in the order of their names. Values are over 255: one channel where all images are
    grey, else three. A folder without train and test is split, stratified, with `SPLIT_SEED`.

    Raises:
        DataNotFound: for a folder that is missing or empty, files that are no images, images of several
            sizes or of more than 8 bits, or classes that differ between train and test.
    """
    try:
        from torchvision.datasets import ImageFolder  # here: seconds to import

        if not root.is_dir():
            raise FileNotFoundError("it is no folder")
        given = [(root / name).is_dir() for name in SPLITS]
        if not any(given):
            whole = _read(ImageFolder(root, loader=_opened), f"{root.name} {split}")
            return whole.split(TEST_SHARE, SPLIT_SEED)[SPLITS.index(split)]
        if not all(given):
            raise FileNotFoundError(
                f"it has {SPLITS[given.index(True)]}/ and no {SPLITS[given.index(False)]}/"
            )
        found = {name: ImageFolder(root / name, loader=_opened) for name in SPLITS}
        if found["train"].classes != found["test"].classes:
            other = set(found["train"].classes) ^ set(found["test"].classes)
            raise ValueError(f"train/ and test/ do not have the same classes: {', '.join(sorted(other))}")
        return _read(found[split], f"{root.name} {split}")
    except (OSError, ValueError) as error:  # Pillow's UnidentifiedImageError is an OSError
        reason = str(error).splitlines()[0]
        raise DataNotFound(
            f"the images in {root.resolve()} can't be read: {reason}. Name a folder (--data.root) with "
            "train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png; jpg, webp and others do, too"
        ) from error


def _read(found: Any, name: str) -> ImageDataset:
    """The images of an `ImageFolder`."""
    arrays: list[np.ndarray] = []
    screen = Console(stderr=True)
    shown = track(found.samples, f"reading {name}", console=screen, disable=not screen.is_terminal)
    for path, _ in shown:
        arrays.append(found.loader(path))
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            first, this = ("x".join(map(str, a.shape[1::-1])) for a in (arrays[0], arrays[-1]))
            raise ValueError(f"{Path(path).name} has {this} pixels and the first one {first}; resize them")
    colour = any(array.ndim == 3 for array in arrays)
    images = torch.stack([_channels(array, colour) for array in arrays]).to(torch.float32) / 255
    return ImageDataset(name, images, torch.tensor(found.targets), len(found.classes))


def _channels(array: np.ndarray, colour: bool) -> Tensor:
    """uint8 [H, W] or [H, W, 3] as [C, H, W]; grey ones have three equal channels among coloured ones."""
    image = torch.from_numpy(array)
    if image.ndim == 3:
        return image.permute(2, 0, 1)
    return image.expand(3 if colour else 1, *image.shape)


def _opened(path: str) -> np.ndarray:
    """An image file as uint8 [H, W] or [H, W, 3]; transparency is dropped."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in (*GREY, *COLOUR):
            raise ValueError(f"{Path(path).name} is of the mode {image.mode}; save it with 8 bits a channel")
        return np.array(image.convert("L" if image.mode in GREY else "RGB"))
