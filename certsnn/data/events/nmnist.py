"""N-MNIST from a folder of its own files, ``NMNIST/{Train,Test}/<digit>/<id>.bin``; Orchard et al. 2015.

A file is a list of 40-bit events: byte 0 the column, byte 1 the row, the top bit of byte 2 the polarity, the
other 23 bits the time in microseconds. A row of 240 marks an overflow of the clock, which adds 2^13 to all
times from there on. The same events as `tonic.io.read_mnist_file` gives, but damaged files are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from certsnn.data.events.frames import Events, columns
from certsnn.data.events.recordings import Recordings, listed
from certsnn.data.events.tonic import fetch

SENSOR = (34, 34)
WHOLE = {"train": 60_000, "test": 10_000}
FOLDER = {"train": "Train", "test": "Test"}
OVERFLOW_ROW, OVERFLOW = 240, 2**13


def nmnist(split: str, root: Path, download: bool) -> Recordings:
    """N-MNIST, ten digits on 34x34 pixels: the part of it that the folder ``root``/NMNIST holds.

    Samples are sorted by digit, then by file. A download goes through tonic.

    Raises:
        DataNotFound: the files are missing or damaged, or the download failed.
    """
    if download:
        fetch("NMNIST", root, {"train": split == "train"})
    folder = root / "NMNIST" / FOLDER[split]
    files = listed("N-MNIST", split, folder, "[0-9]/*.bin", "a folder of .bin files for each digit, 0 to 9")
    labels = [int(file.parent.name) for file in files]
    return Recordings("N-MNIST", split, files, labels, read, SENSOR, 10, WHOLE[split])


def read(path: Path) -> Events:
    """The events of a file.

    Raises:
        OSError: the file can't be read.
        ValueError: it is empty, cut off, or no list of events of this camera.
    """
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if len(data) == 0:
        raise ValueError("it is empty")
    if len(data) % 5:
        raise ValueError(f"its {len(data)} bytes are no whole number of events of 5 bytes, so it was cut off")
    x, y, high, middle, low = data.reshape(-1, 5).T.astype(np.int64)
    time = ((high & 127) << 16) | (middle << 8) | low
    overflow = y == OVERFLOW_ROW
    time = time + OVERFLOW * overflow.cumsum()
    events = columns(*(part[~overflow] for part in (x, y, high >> 7, time)))
    height, width = SENSOR
    if len(events.x) == 0 or events.x.max() >= width or events.y.max() >= height:
        raise ValueError(f"its events do not lie on {width}x{height} pixels, so it is no file of N-MNIST")
    return events
