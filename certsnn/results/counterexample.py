"""Counterexamples to bounds, kept with all that it takes to see them again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from certsnn.errors import UnsoundBoundError
from certsnn.files import write_tensors, write_text
from certsnn.machine import versions
from certsnn.networks import SpikingNetwork

FACTS = "facts.json"


@final
@dataclass(frozen=True)
class Refutation:
    """One sample on which the network refutes a bound.

    ``tensors``, each a batch of one: ``x`` as the threat takes it, ``x0`` and ``adversarial`` as the network
    takes them, ``label`` and ``index [1]``, and the network's logits ``[1, K]`` at both. ``facts``: the
    sample's result, for JSON.
    """

    index: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@final
class Refuted(UnsoundBoundError):
    """An unsound bound, with the sample that shows it."""

    def __init__(self, message: str, refutation: Refutation) -> None:
        super().__init__(message)
        self.refutation = refutation


@contextmanager
def saving(folder: Path, network: SpikingNetwork, facts: Mapping[str, Any]) -> Iterator[None]:
    """A `Refuted` out of the block is saved below the folder, and goes on as an error that says where.

    Args:
        folder: a folder for each sample is made in it.
        network: whose weights are saved too.
        facts: all else that the run depends on (config, threat, method, seed), for JSON.

    Raises:
        UnsoundBoundError: for a `Refuted`.
    """
    try:
        yield
    except Refuted as error:
        try:
            place = save(error.refutation, folder, network, facts)
        except OSError as failed:  # the news must not be lost with the evidence
            raise UnsoundBoundError(f"{error}. The evidence could not be kept: {failed}") from error
        raise UnsoundBoundError(
            f"{error}. All that reproduces it is in {place}; please report it with that folder"
        ) from error


def save(refutation: Refutation, folder: Path, network: SpikingNetwork, facts: Mapping[str, Any]) -> Path:
    """Write sample.safetensors, network.safetensors and facts.json into a new folder; its path."""
    place = _unused(folder, f"sample-{refutation.index}")
    described = {"sample": refutation.facts, **facts, "network": str(network), "versions": versions()}
    write_tensors(place / "sample.safetensors", refutation.tensors, {})
    write_tensors(place / "network.safetensors", network.state_dict(), {})
    write_text(place / FACTS, json.dumps(described, indent=2) + "\n")
    return place


def _unused(folder: Path, name: str) -> Path:
    """The folder of this name, or with the first number that is free: earlier evidence stays."""
    place, number = folder / name, 1
    while place.exists():
        number += 1
        place = folder / f"{name}-{number}"
    return place
