"""Checkpoints: all that a run needs to resume as if it had not stopped, without pickle.

A checkpoint is one safetensors file. Its tensors are the weights, the best weights so far, the optimiser's
state and the random state; its metadata are the position, the figures and the config, with a digest. The
checkpoint before the last is kept: a damaged file is refused and that one used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor

from certsnn.errors import CheckpointError
from certsnn.files import read_whole_tensors, write_tensors

LAST, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
NEXT = "checkpoint.next.safetensors"
"""The newest checkpoint until the last one has become the previous one."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """A run's state: named tensors, and ``facts`` that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint of a run folder; the one that was the last becomes the previous one."""
    last, new = folder / LAST, folder / NEXT
    write_tensors(new, checkpoint.tensors, {"facts": json.dumps(checkpoint.facts)})
    if last.exists():
        os.replace(last, folder / PREVIOUS)
    os.replace(new, last)


def load(path: Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        CheckpointError: if the file is missing, truncated, damaged or not a checkpoint.
    """
    try:
        tensors, metadata = read_whole_tensors(path)
        facts = json.loads(metadata["facts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint ({error})") from error
    return Checkpoint(tensors, facts)


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run folder (None if it has none), and why others were refused.

    Raises:
        CheckpointError: if there are checkpoints, but none is whole.
    """
    refused: list[str] = []
    candidates = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
    for path in candidates:
        try:
            return load(path), refused
        except CheckpointError as error:
            refused.append(str(error))
    if candidates:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read: {'; '.join(refused)}. Remove the folder's checkpoints "
            "to train from the beginning"
        )
    return None, refused


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[Any]]:
    """An optimiser's state as flat named tensors, and the groups' settings (learning rate ...)."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{slot}.{name}": torch.as_tensor(value)
        for slot, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[Any]
) -> None:
    """Put the state of `pack_optimizer` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, slot, key = (*name.split(".", 2), "", "")[:3]
        if prefix == "optimizer":
            state.setdefault(int(slot), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
