"""Data sets that tonic knows: fetched by it, then read from the files that it leaves in their folder.

tonic is an extra (``pip install 'certsnn[events]'``) and needed for downloads and for CIFAR10-DVS. It takes
seconds to import, so each function imports what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from certsnn.data.base import stratified
from certsnn.data.events.frames import Events, columns
from certsnn.data.events.recordings import Recordings, listed
from certsnn.errors import DataNotFound

SENSOR = (128, 128)
GESTURES = {"train": 1077, "test": 264}
"""The number of recordings in tonic's form of DVS128 Gesture."""
CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR_TEST_SHARE, CIFAR_SEED, CIFAR_WHOLE = 0.1, 0, 10_000


def dvs_gesture(split: str, root: Path, download: bool) -> Recordings:
    """DVS128 Gesture, eleven gestures on 128x128 pixels, split by subject; Amir et al. 2017.

    Reads ``root``/DVSGesture/ibmGesture{Train,Test}/<user>_<light>/<gesture>.npy, rows of column, row,
    polarity and milliseconds.

    Raises:
        DataNotFound: the files are missing or damaged, or the download failed.
    """
    if download:
        fetch("DVSGesture", root, {"train": split == "train"})
    name, part = "DVS128-Gesture", {"train": "ibmGestureTrain", "test": "ibmGestureTest"}[split]
    folder = root / "DVSGesture" / part
    files = listed(name, split, folder, "user*_*/[0-9]*.npy", "tonic's files <user>_<light>/<gesture>.npy")
    labels = [_gesture(name, split, file) for file in files]
    return Recordings(name, split, files, labels, _read_npy, SENSOR, 11, GESTURES[split])


def cifar10_dvs(split: str, root: Path, download: bool) -> Recordings:
    """CIFAR10-DVS, ten classes on 128x128 pixels; Li et al. 2017. Reads ``root``/CIFAR10DVS/<class>/*.aedat4.

    Its authors name no split. A tenth of every class is the test set, drawn once, with a fixed seed, from
    the files by name.

    Raises:
        DataNotFound: the files or tonic are missing, a file is damaged, or the download failed.
    """
    if download:
        fetch("CIFAR10DVS", root, {})
    name, folder = "CIFAR10-DVS", root / "CIFAR10DVS"
    known = {file: file.parent.name for file in listed(name, split, folder, "*/*.aedat4", "<class>/*.aedat4")}
    files = [file for file, label in known.items() if label in CIFAR_CLASSES]
    labels = torch.tensor([CIFAR_CLASSES.index(known[file]) for file in files])
    try:
        train, test = stratified(labels, round(CIFAR_TEST_SHARE * len(files)), CIFAR_SEED)
    except ValueError as error:
        raise DataNotFound(
            f"{name}: {folder.resolve()} holds too few recordings to split: {error}"
        ) from error
    chosen = {"train": train, "test": test}[split].tolist()
    share = {"train": 1 - CIFAR_TEST_SHARE, "test": CIFAR_TEST_SHARE}[split]
    part, classes = [files[n] for n in chosen], [int(labels[n]) for n in chosen]
    whole = round(share * CIFAR_WHOLE)
    return Recordings(name, split, part, classes, _read_aedat4, SENSOR, 10, whole)


def fetch(data_set: str, root: Path, arguments: Mapping[str, bool]) -> None:
    """Let tonic download a data set (a class of `tonic.datasets`) into root, unless it is there.

    Raises:
        DataNotFound: tonic is not installed, or the download failed.
    """
    try:
        from tonic import datasets
    except ImportError as error:
        raise DataNotFound(_needs_tonic(f"downloading {data_set}")) from error
    try:
        getattr(datasets, data_set)(save_to=str(root), **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataNotFound(f"{data_set} can't be fetched into {root.resolve()}: {error}") from error


def _needs_tonic(task: str) -> str:
    """The message for a task without tonic."""
    return f"{task} needs tonic, which is not installed: pip install 'certsnn[events]'"


def _gesture(name: str, split: str, file: Path) -> int:
    """The label that a file is named after; raises DataNotFound for another name."""
    label = int(file.stem) if file.stem.isdecimal() else -1
    if not 0 <= label < 11:
        raise DataNotFound(f"{name} ({split}): {file} is not named after a gesture, 0 to 10; remove it")
    return label


def _read_npy(path: Path) -> Events:
    """The events of a file of DVS128 Gesture; raises OSError or ValueError where it is damaged."""
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"it holds an array of the shape {rows.shape}, not rows of four numbers")
    events = columns(*rows.T)
    return events._replace(time=1000 * events.time)  # the files count milliseconds


def _read_aedat4(path: Path) -> Events:
    """The events of a file of CIFAR10-DVS; raises ValueError (damaged) or DataNotFound (no tonic)."""
    try:
        from tonic.io import read_aedat4
    except ImportError as error:
        raise DataNotFound(_needs_tonic("reading CIFAR10-DVS")) from error
    try:
        rows = read_aedat4(str(path))
        time, x, y, polarity = (rows[name] for name in rows.dtype.names)
    except Exception as error:  # its readers raise anything, Exception itself included
        raise ValueError(str(error)) from error
    return columns(x, y, polarity, time)
