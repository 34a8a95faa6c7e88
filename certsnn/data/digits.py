"""The 8x8 handwritten digits that ship with scikit-learn: no download, seconds to train on."""

from __future__ import annotations

from pathlib import Path

import torch

from certsnn.data.base import ImageDataset, stratified

TEST_SAMPLES = 450
SPLIT_SEED = 0


def digits(split: str, root: Path, download: bool) -> ImageDataset:
    """1,347 training or 450 test images, 1x8x8, ten classes; the 17 grey levels are divided by 16.

    scikit-learn names no official split. This one is drawn once, stratified, with `SPLIT_SEED`; the
    samples keep scikit-learn's order. `root` and `download` are not needed.
    """
    from sklearn.datasets import load_digits  # here: a second to import

    source = load_digits()
    images = torch.from_numpy(source.images).to(torch.float32).unsqueeze(1) / 16
    labels = torch.from_numpy(source.target).to(torch.int64)
    train, test = stratified(labels, TEST_SAMPLES, SPLIT_SEED)
    positions = {"train": train, "test": test}[split]
    return ImageDataset(f"digits {split}", images[positions], labels[positions], classes=10)
