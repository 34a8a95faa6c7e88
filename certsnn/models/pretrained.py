"""Trained networks as files: weights with their config inside, found by path, run folder or name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import yaml
from safetensors import SafetensorError

from certsnn.architectures import build
from certsnn.configuration import parse_text
from certsnn.errors import CheckpointError, ConfigError, UserError
from certsnn.files import read_whole_tensors, write_tensors
from certsnn.models.descriptions import LAYERS, described, network_of
from certsnn.networks import SpikingNetwork
from certsnn.results.differences import differences
from certsnn.train.config import RunConfig

MODEL, CONFIG = "model.safetensors", "config.yaml"
"""The names of a run folder's weights and of its config."""


@final
@dataclass(frozen=True)
class Model:
    """A network with the config it was trained by, the shape ``(C, H, W)`` of a sample, and some facts."""

    network: SpikingNetwork
    config: RunConfig
    text: str
    shape: tuple[int, ...]
    classes: int
    facts: dict[str, Any]


def build_network(config: RunConfig, shape: Sequence[int], classes: int) -> SpikingNetwork:
    """A new network as the config describes it; weights are drawn from torch's generator."""
    return build(
        config.network.architecture,
        shape,
        classes,
        config.network.neuron,
        config.network.steps,
        config.network.readout,
        config.threat.network_input,
        config.network.norm,
    )


def save_model(path: Path, model: Model) -> None:
    """Write the weights and all that is needed to use them as one safetensors file."""
    named = model.config.network.architecture
    metadata = {"layers": json.dumps(described(model.network))} if named.startswith(LAYERS) else {}
    metadata |= {
        "config": model.text,
        "shape": json.dumps(list(model.shape)),
        "classes": str(model.classes),
        "facts": json.dumps(model.facts),
    }
    write_tensors(path, model.network.state_dict(), metadata)


def load_model(run: str | Path) -> Model:
    """The network of a run folder, a weights file or a pretrained name, in eval mode on the CPU.

    Raises:
        CheckpointError: if there is no such model, or its file is truncated, damaged or not certsnn's.
        ConfigError: if the run folder's config is not that of its weights.
    """
    path = locate(run)
    try:
        tensors, metadata = read_whole_tensors(path)
        text, shape = metadata["config"], tuple(json.loads(metadata["shape"]))
        classes, facts = int(metadata["classes"]), json.loads(metadata["facts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole model of certsnn ({error})") from error
    try:
        config = parse_text(text)
    except ConfigError as error:
        raise CheckpointError(f"the config inside {path}: {error}") from error
    _check_config(path, text)
    try:
        if "layers" in metadata:
            network = network_of(json.loads(metadata["layers"]))
        else:
            network = build_network(config, shape, classes)
        network.load_state_dict(tensors)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, UserError) as error:
        raise CheckpointError(f"the weights in {path} do not fit its config: {error}") from error
    return Model(network.eval(), config, text, shape, classes, facts)


def _check_config(path: Path, text: str) -> None:
    """Raise ConfigError where the config beside the weights of a run folder is not the one inside them."""
    beside = path.with_name(CONFIG)
    if path.name != MODEL or not beside.exists():
        return
    try:
        there = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{beside} can't be read, but is the config of {path}: {error}") from error
    differ = differences(there, yaml.safe_load(text), f"in {CONFIG}", f"in {MODEL}")
    if differ:
        raise ConfigError(
            f"{beside} is not the config that {path} was trained with: {differ}. Put it back, and "
            "name what is to change as flags (--threat.eps ...); another network needs another run folder"
        )


def pretrained() -> dict[str, Path]:
    """The models that come with certsnn, by name."""
    folder = Path(str(files("certsnn"))) / "pretrained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def locate(run: str | Path) -> Path:
    """The weights file of a run folder, of itself, or of a pretrained name.

    Raises:
        CheckpointError: if there is none.
    """
    path = Path(run)
    if path.is_dir() and (path / MODEL).exists():
        return path / MODEL
    if path.is_file():
        return path
    known = pretrained()
    if str(run) in known:
        return known[str(run)]
    if path.is_dir():
        raise CheckpointError(
            f"{path} has no {MODEL}: its training has not ended; run `certsnn train` on it again"
        )
    near = get_close_matches(str(run), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    names = ", ".join(known) or "none yet"
    raise CheckpointError(
        f"{run} is neither a run folder, nor a weights file, nor a pretrained model{hint} Pretrained: {names}"
    )
