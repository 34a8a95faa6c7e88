"""Images to spikes: Bernoulli (with noise that is fixed for each sample) and latency encoding.

Random encodings draw from a counter-based generator keyed on (seed, index), where index is the
sample's position in the data set. So a sample meets the same noise in clean, attacked and certified
evaluation, whatever batch it comes in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from certsnn.settings import check_count


def check_images(x: Tensor, low: float = 0.0, high: float = 1.0) -> None:
    """Raise TypeError or ValueError unless x is a batch of images [B, ...] within [low, high].

    The limits are compared in x's own precision, as 0.1 in float32 is not 0.1 in float64.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"images must be a floating-point tensor, not {kind}: bytes are x.float() / 255")
    if x.dim() < 2:
        raise ValueError(f"images have shape [B, ...], this one {list(x.shape)}: add a batch axis")
    if not bool(x.isfinite().all()):
        raise ValueError("images hold NaN or infinite values")
    limits = torch.tensor([low, high], dtype=torch.float64).to(x)
    if bool(((x < limits[0]) | (x > limits[1])).any()):
        least, most = float(x.min()), float(x.max())
        raise ValueError(
            f"images must lie within [{low:g}, {high:g}], these span [{least:.8g}, {most:.8g}]: "
            + _remedy(low, high, least, most)
        )


def _remedy(low: float, high: float, least: float, most: float) -> str:
    """The remedy for images that span [least, most] and should lie within [low, high]."""
    if max(low - least, most - high) <= 1e-3 * (high - low):
        return f"that is rounding, so x.clamp({low:g}, {high:g}) mends it"
    if low == 0 and high == 1 and least >= 0 and 16 < most <= 255:
        return "divide bytes by 255"
    return (
        "pass raw, unnormalised pixels (normalisation is a layer of the network: "
        "certsnn.layers.Normalize(mean, std) comes first)"
    )


def check_index(index: Tensor, batch: int) -> None:
    """Raise TypeError or ValueError unless index [B] holds positions in the data set."""
    integer = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
    if not integer:
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be an integer tensor of data-set positions, not {kind}")
    if index.shape != (batch,):
        raise ValueError(f"index has shape {list(index.shape)}, expected [{batch}], one a sample")
    if bool((index < 0).any()):
        raise ValueError("index holds negative positions: pass positions counted from 0")


def check_steps(steps: int) -> None:
    """Raise TypeError or ValueError unless steps is a positive integer."""
    check_count("steps", steps)


def check_seed(seed: int) -> None:
    """Raise TypeError or ValueError unless seed is an integer that fits half a Philox key."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, not {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2**64), not {seed}")


def redrawn_seed(seed: int, draw: int) -> int:
    """The seed of draw number ``draw``: draw 0 keeps the seed, each other one gets a seed of its own."""
    return (seed + draw * 0x9E3779B97F4A7C15) % 2**64  # an odd factor: no two draws below 2**64 agree


def keyed_uniform(
    shape: Sequence[int],
    seed: int,
    index: Tensor,
    stream: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform float32 numbers in [0, 1), keyed on (seed, index): [T, B, ...] for shape [T, ...].

    Different streams are independent of each other under the same seed. Numbers are drawn in time
    order, so fewer steps give a prefix of the same noise.
    """
    check_seed(seed)
    check_index(index, index.numel())
    steps, *features = shape
    noise = np.empty((len(index), steps, *features), dtype=np.float32)
    for row, position in zip(noise, index.tolist(), strict=True):
        # The counter's highest word separates the streams: 2**192 blocks lie between them.
        philox = np.random.Philox(
            key=np.array([seed, position], dtype=np.uint64),
            counter=np.array([0, 0, 0, stream], dtype=np.uint64),
        )
        row[...] = np.random.Generator(philox).random(row.shape, dtype=np.float32)
    return torch.from_numpy(noise).transpose(0, 1).contiguous().to(device)


def bernoulli_noise(
    shape: Sequence[int],
    steps: int,
    seed: int,
    index: Tensor,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The noise [T, B, ...] in [0, 1) that Bernoulli encoding compares images [B, *shape] with.

    Drawn per sample from Philox keyed on (seed, index), on the CPU, then moved to the device.
    """
    check_steps(steps)
    return keyed_uniform((steps, *shape), seed, index, device=device)


def bernoulli(x: Tensor, noise: Tensor) -> Tensor:
    """Spikes 1[x > noise] of images x [B, ...] and noise [T, B, ...], in x's dtype."""
    return (x > noise).to(x.dtype)


class Encoding(ABC):
    """Turns images [B, ...] in [0, 1] and their data-set positions [B] into spikes [T, B, ...]."""

    @abstractmethod
    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Spikes [T, B, ...], 0/1 in x's dtype. Raises ValueError or TypeError on unfit input."""

    @abstractmethod
    def redrawn(self, draw: int) -> Encoding:
        """The same encoding with fresh noise; see `certsnn.inputsets.Threat.redrawn`."""

    @property
    @final
    def random(self) -> bool:
        """Whether it draws noise, which the samples' positions in the data set key."""
        return self.redrawn(1) is not self


@final
@dataclass(frozen=True)
class Bernoulli(Encoding):
    """A spike at each step with probability x, independently; (seed, index) fix the noise."""

    steps: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_seed(self.seed)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        check_images(x)
        check_index(index, x.shape[0])
        return bernoulli(x, bernoulli_noise(x.shape[1:], self.steps, self.seed, index, x.device))

    def redrawn(self, draw: int) -> Bernoulli:
        return replace(self, seed=redrawn_seed(self.seed, draw))


@final
@dataclass(frozen=True)
class Latency(Encoding):
    """One spike, at step round((1 - x) * (steps - 1)), the brighter the earlier; none for 0."""

    steps: int

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        check_images(x)
        check_index(index, x.shape[0])
        step = torch.arange(self.steps, device=x.device).view(-1, *[1] * x.dim())
        firing = ((1 - x) * (self.steps - 1)).round()
        return ((step == firing) & (x > 0)).to(x.dtype)

    def redrawn(self, draw: int) -> Latency:
        return self
