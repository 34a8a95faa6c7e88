"""The part of a network that bounds decide: the shares of neurons that surely fire, or surely do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from certsnn.bounds import layer_bounds
from certsnn.data import Batch
from certsnn.encoding import Encoding
from certsnn.evaluation.verification import bind_batch, evaluating
from certsnn.inputsets import Threat
from certsnn.networks import SpikingNetwork


@final
@dataclass(frozen=True)
class LayerStability:
    """One layer of ``neurons`` neurons; shares in percent of its neurons, one value a step.

    ``silent``: no input of the set makes it fire at this step. ``firing``: every input does. The rest is
    unstable: the bounds leave it open.
    """

    neurons: int
    silent: list[float]
    firing: list[float]

    @property
    def unstable(self) -> list[float]:
        """The rest, which the bounds leave open."""
        return [100 - low - high for low, high in zip(self.silent, self.firing, strict=True)]


@torch.no_grad()
def stability(
    network: SpikingNetwork,
    batches: Iterable[Batch],
    threat: Threat,
    *,
    encoding: Encoding | None = None,
    rounding: bool = True,
) -> list[LayerStability]:
    """Each layer's stability by S-IBP, on average over the samples; arguments as `verify`.

    Raises:
        ValueError: without samples.
    """
    totals: list[Tensor] = []
    samples = 0
    with evaluating(network):
        for batch in batches:
            bound = bind_batch(network, batch, threat, encoding)
            layers = layer_bounds(network, bound.x0, bound.input_set, rounding=rounding)
            found = [_shares(layer.spikes.lower, layer.spikes.upper) for layer in layers]
            totals = [a + b for a, b in zip(totals, found, strict=True)] if totals else found
            samples += len(bound.y)
            sizes = [layer.spikes.lower.shape[2:].numel() for layer in layers]
    if not samples:
        raise ValueError("there are no samples to look at")
    shares = [(100 * total / samples).tolist() for total in totals]
    return [LayerStability(size, *share) for size, share in zip(sizes, shares, strict=True)]


def _shares(lower: Tensor, upper: Tensor) -> Tensor:
    """``[2, T]``: the silent and the firing share of a layer at each step, summed over the samples."""
    each = torch.stack([upper <= 0, lower >= 1]).flatten(3).double()
    return each.mean(3).sum(2).cpu()
