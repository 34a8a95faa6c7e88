"""Networks that certsnn did not train, imported ones say, as models: in files like all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from certsnn.configuration import override, text_of
from certsnn.encoding import Encoding
from certsnn.errors import UserError
from certsnn.inputsets import Threat
from certsnn.models.descriptions import name_of
from certsnn.models.pretrained import Model, save_model
from certsnn.networks import SpikingNetwork
from certsnn.train.config import DataConfig, NetworkConfig, RunConfig


def save(
    network: SpikingNetwork,
    path: str | Path,
    x: Tensor,
    *,
    data: str,
    threat: Threat,
    encoding: Encoding | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a network, trained anywhere, to a file that `load_model` and the command line take.

    The file is safetensors, with the layers as JSON and a digest. Nothing in it is executed.

    Args:
        network: the network; it is saved as it is in eval mode.
        path: the file, NAME.safetensors.
        x: an input of it, for the shapes.
        data: the name of the data set that it classifies, as ``--data.name`` takes it.
        threat: the changes that it is verified against unless others are asked for.
        encoding: makes spikes of the images of the data set.
        facts: notes of your own for the file, such as ``{"imported": str(check)}``, as JSON takes them.

    Raises:
        UserError: for layers of your own, and for data or a threat that do not fit the network.
        OSError: if the file can't be written.
    """
    config = RunConfig(DataConfig(data, encoding=encoding), threat=threat)
    save_model(Path(path), model_of(network, x, config, dict(facts or {})))


def model_of(network: SpikingNetwork, x: Tensor, config: RunConfig, facts: dict[str, Any]) -> Model:
    """A network with an input of it as a model that is examined under a config's data and threat.

    Raises:
        UserError: as `save`.
    """
    if network.input.kind != config.threat.network_input:
        raise UserError(
            f"the network takes {network.input.kind}, but {config.threat.describe()} gives it "
            f"{config.threat.network_input}: name another threat"
        )
    with torch.no_grad():
        logits = network.freeze().run(x)
    part = NetworkConfig(name_of(network), steps=network.steps, readout=network.readout)
    config, text = override(text_of(replace(config, network=part)), ())
    return Model(
        network, config, text, tuple(x.shape[1 + network.input.batch_axis :]), logits.shape[1], facts
    )
