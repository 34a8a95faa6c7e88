"""What enters a network: images that are held over all steps, or spikes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor


class Input(ABC):
    """How a batch enters the network."""

    kind: ClassVar[Literal["image", "spikes"]]

    @property
    @abstractmethod
    def batch_axis(self) -> int:
        """The axis of the batch: 0 for images ``[B, ...]``, 1 for spikes ``[T, B, ...]``."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raise ValueError or TypeError if x cannot enter."""

    @abstractmethod
    def frames(self, x: Tensor, steps: int | None) -> tuple[Tensor, int]:
        """The first affine layers' input ``[F, B, ...]``, F = 1 or T, and the number of steps T."""


def _check_values(x: Tensor, what: str, remedy: str) -> None:
    """Raise TypeError or ValueError unless x is a float tensor of finite numbers."""
    if not x.is_floating_point():
        raise TypeError(f"{what} must be a float tensor, got {x.dtype}: {remedy}")
    # Nothing finite comes of adding to a NaN or to infinity; a sum that overflows is looked at again.
    if not torch.isfinite(x.detach().sum()) and not torch.isfinite(x).all():
        raise ValueError(f"{what} hold NaN or infinite values")


@final
@dataclass(frozen=True)
class ImageInput(Input):
    """Direct encoding: the image ``[B, ...]`` is the current source of every step."""

    kind: ClassVar[Literal["image", "spikes"]] = "image"
    steps: int

    @property
    def batch_axis(self) -> int:
        return 0

    def check(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"images must be [B, ...], got the shape {tuple(x.shape)}: add a batch axis")
        _check_values(x, "images", "bytes are x.float() / 255")

    def frames(self, x: Tensor, steps: int | None) -> tuple[Tensor, int]:
        return x[None], self.steps if steps is None else steps


@final
@dataclass(frozen=True)
class SpikeInput(Input):
    """Spikes ``[T, B, ...]`` of any length T, taken as they come."""

    kind: ClassVar[Literal["image", "spikes"]] = "spikes"

    @property
    def batch_axis(self) -> int:
        return 1

    def check(self, x: Tensor) -> None:
        if x.ndim < 3 or len(x) == 0:
            raise ValueError(f"spikes must be [T, B, ...] with T >= 1, got the shape {tuple(x.shape)}")
        _check_values(x, "spikes", "convert them with x.float()")
        if not ((x == 0) | (x == 1)).all():
            raise ValueError("spikes must be 0 or 1; encode images first (certsnn.encoding)")

    def frames(self, x: Tensor, steps: int | None) -> tuple[Tensor, int]:
        if steps is not None and steps > len(x):
            raise ValueError(f"steps={steps}, but the spikes have only {len(x)} steps")
        x = x[:steps]
        return x, len(x)
