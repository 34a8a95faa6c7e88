"""Frames on disk, bits packed eight to a byte, so that recordings are read once for each setting."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from certsnn.files import read_whole_tensors, write_tensors

VERSION = "2"
"""Of the frames that the same events make, and of their files."""


class Trains(NamedTuple):
    """Spikes bool, or counts uint8, ``[N, T, C, H, W]`` and labels int64 ``[N]``."""

    frames: Tensor
    labels: Tensor


def cache_folder() -> Path:
    """Where frames are kept: certsnn in the user's cache folder (``$XDG_CACHE_HOME``, or ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "certsnn"


def cached(what: Mapping[str, str], make: Callable[[], Trains]) -> Trains:
    """The trains that ``make`` gives, kept under ``what``, all that they depend on.

    A damaged file is made anew. Where nothing can be written, a warning says so.
    """
    what = {**what, "version": VERSION}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{what['data']}-{what['split']}-{digest[:16]}.safetensors"
    found = _read(path, what)
    if found is not None:
        return found
    made = make()
    try:
        _write(path, what, made)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"the frames can't be kept in {path.parent} ({error}); set XDG_CACHE_HOME", stacklevel=2
        )
    return made


def _read(path: Path, what: Mapping[str, str]) -> Trains | None:
    """The trains in a file; None where it is missing, damaged or keeps others."""
    try:
        tensors, facts = read_whole_tensors(path)
        shape = json.loads(facts.pop("shape"))
        if facts != what:
            return None
        if "counts" in tensors:
            return Trains(tensors["counts"].view(shape), tensors["labels"])
        bits = np.unpackbits(tensors["packed"].numpy(), count=int(np.prod(shape)))
        return Trains(torch.from_numpy(bits).view(torch.bool).view(shape), tensors["labels"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        return None  # missing, damaged, or another version's


def _write(path: Path, what: Mapping[str, str], trains: Trains) -> None:
    """Keep trains in a file; raises OSError or SafetensorError."""
    flat = trains.frames.flatten()
    if flat.dtype == torch.bool:
        held = {"packed": torch.from_numpy(np.packbits(flat.numpy()))}
    else:
        held = {"counts": flat}
    facts = {**what, "shape": json.dumps(list(trains.frames.shape))}
    write_tensors(path, {**held, "labels": trains.labels}, facts)
