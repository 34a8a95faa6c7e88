"""MNIST, Fashion-MNIST and CIFAR-10 in a folder, as torchvision stores them; values over 255.

torchvision takes seconds to import, so each function imports what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certsnn.data.base import ImageDataset
from certsnn.errors import DataNotFound


def mnist(split: str, root: Path, download: bool) -> ImageDataset:
    """60,000 training or 10,000 test images of digits, 1x28x28, from `root`/MNIST/raw.

    Raises:
        DataNotFound: the files are missing or damaged, or the download failed.
    """
    from torchvision.datasets import MNIST

    return _read("MNIST", MNIST, _grey, root / "MNIST" / "raw", split, root, download)


def fashion_mnist(split: str, root: Path, download: bool) -> ImageDataset:
    """60,000 training or 10,000 test images of clothes, 1x28x28, from `root`/FashionMNIST/raw.

    Raises:
        DataNotFound: the files are missing or damaged, or the download failed.
    """
    from torchvision.datasets import FashionMNIST

    folder = root / "FashionMNIST" / "raw"
    return _read("Fashion-MNIST", FashionMNIST, _grey, folder, split, root, download)


def cifar10(split: str, root: Path, download: bool) -> ImageDataset:
    """50,000 training or 10,000 test colour images, 3x32x32, from `root`/cifar-10-batches-py.

    torchvision unpickles only files whose published checksum it has verified.

    Raises:
        DataNotFound: the files are missing or damaged, or the download failed.
    """
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    return _read("CIFAR-10", CIFAR10, _colour, folder, split, root, download)


def _read(
    name: str,
    source: Callable[..., Any],
    channels_first: Callable[[Any], Tensor],
    folder: Path,
    split: str,
    root: Path,
    download: bool,
) -> ImageDataset:
    """A data set of torchvision as images in [0, 1]; raises DataNotFound where it can't be read."""
    try:
        stored = source(root, train=split == "train", download=download)
        images = channels_first(stored.data).to(torch.float32) / 255
        labels = torch.as_tensor(stored.targets, dtype=torch.int64)
        return ImageDataset(f"{name} {split}", images, labels, classes=10)
    except (RuntimeError, OSError) as error:  # files that are missing, or a failed download
        raise DataNotFound(_message(name, split, folder, str(error) or repr(error))) from error
    # The readers parse without checking first, so a damaged file shows as any of these.
    except (ValueError, TypeError, LookupError, AssertionError, EOFError) as error:
        raise DataNotFound(_message(name, split, folder, f"damaged ({error!r})")) from error


def _message(name: str, split: str, folder: Path, reason: str) -> str:
    """The message for a data set that can't be read."""
    return (
        f"{name} ({split}) can't be read from {folder.resolve()}: "
        f"{reason.splitlines()[0].split('. ')[0]}. Either name the folder that holds it with "
        "--data.root PATH, or fetch it with --data.download true (remove damaged files first)."
    )


def _grey(data: Tensor) -> Tensor:
    """uint8 [N, H, W] to [N, 1, H, W]."""
    return data.unsqueeze(1)


def _colour(data: Any) -> Tensor:
    """A uint8 array [N, H, W, C] to a tensor [N, C, H, W]."""
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
