"""What enters a network: images that are held over all steps, spikes, or frames of numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

Domain = Literal["image", "spikes", "frames"]


class Input(ABC):
    """How a batch enters the network."""

    kind: ClassVar[Domain]

    @property
    @abstractmethod
    def batch_axis(self) -> int:
        """The axis of the batch: 0 for images ``[B, ...]``, 1 for spikes and frames ``[T, B, ...]``."""

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

    kind: ClassVar[Domain] = "image"
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


class SequenceInput(Input, ABC):
    """A sequence ``[T, B, ...]`` of any length T, one frame a step, taken as it comes."""

    @property
    @final
    def batch_axis(self) -> int:
        return 1

    def check(self, x: Tensor) -> None:
        if x.ndim < 3 or len(x) == 0:
            raise ValueError(f"{self.kind} must be [T, B, ...] with T >= 1, got the shape {tuple(x.shape)}")
        _check_values(x, self.kind, "convert them with x.float()")

    @final
    def frames(self, x: Tensor, steps: int | None) -> tuple[Tensor, int]:
        if steps is not None and steps > len(x):
            raise ValueError(f"steps={steps}, but the {self.kind} have only {len(x)} steps")
        x = x[:steps]
        return x, len(x)


@final
@dataclass(frozen=True)
class SpikeInput(SequenceInput):
    """Spikes ``[T, B, ...]``, 0 or 1."""

    kind: ClassVar[Domain] = "spikes"

    def check(self, x: Tensor) -> None:
        super().check(x)
        if not ((x == 0) | (x == 1)).all():
            raise ValueError(
                "spikes must be 0 or 1; encode images first (certsnn.encoding), and give other numbers to a "
                "network with input='frames'"
            )


@final
@dataclass(frozen=True)
class FrameInput(SequenceInput):
    """Frames ``[T, B, ...]`` of finite numbers: a signal over time, or counts of events."""

    kind: ClassVar[Domain] = "frames"


def input_named(kind: Domain, steps: int) -> Input:
    """The input of a kind; ``steps`` is T for images. Raises ValueError for an unknown kind."""
    known: dict[Domain, Input] = {"image": ImageInput(steps), "spikes": SpikeInput(), "frames": FrameInput()}
    if kind not in known:
        *others, last = map(repr, known)
        raise ValueError(f"input must be {', '.join(others)} or {last}, got {kind!r}")
    return known[kind]
