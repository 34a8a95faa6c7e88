"""What the tests of event data share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from certsnn.data import Saccades
from certsnn.data.events.frames import Events


def events(rows: list[tuple[int, int, int, int]]) -> Events:
    """Of rows (x, y, polarity, microseconds)."""
    return Events(*np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def packed(rows: list[tuple[int, int, int, int]]) -> bytes:
    """The same as N-MNIST's 40-bit events."""
    return b"".join(bytes([x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255]) for x, y, p, t in rows)


def set_bits(frames: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in frames.nonzero().tolist()}


# --- N-MNIST's files ---


def nmnist_folder(root: Path) -> None:
    for split, digit, number in (("Train", 0, 3), ("Train", 0, 1), ("Train", 7, 2), ("Test", 4, 9)):
        folder = root / "NMNIST" / split / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}.bin").write_bytes(packed([(number, digit, 1, 5), (33, 33, 0, 90000)]))


# --- the simulated camera ---

CAMERA = Saccades(moments=20)
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([4, 0, 9])
